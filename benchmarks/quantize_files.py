"""A task on bytes: magika names the type of files that are installed here."""

from __future__ import annotations

import json
import random
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from quantize_task import Arrays, Places, Run, Task, package, require

SAMPLES, TEST = 100, 600
PER_LABEL = 40
"""Files of one type at most, so that accuracy is not that of .py files."""


def tasks() -> dict[str, Callable[[Places], Task]]:
    return {"magika": _magika}


def _magika(places: Places) -> Task:
    folder = package("magika")
    require("dotenv")
    model = next(iter(sorted((folder / "models").glob("*/model.onnx"))))
    config = json.loads((model.parent / "config.min.json").read_text())
    listing = places.cache / "magika_files.json"

    def files() -> list[tuple[str, int]]:
        if not listing.exists():
            listing.write_text(json.dumps(_labelled(folder, config["target_labels_space"])))
        return [(path, label) for path, label in json.loads(listing.read_text())]

    def calibration() -> Arrays:
        return {"bytes": _features([path for path, _ in files()[:SAMPLES]], config)}

    def evaluate(run: Run) -> float:
        chosen = files()[SAMPLES : SAMPLES + TEST]
        inputs = _features([path for path, _ in chosen], config)
        right = 0
        for start in range(0, len(chosen), 20):
            found = run({"bytes": inputs[start : start + 20]})[0].argmax(axis=1)
            right += sum(int(f) == c[1] for f, c in zip(found, chosen[start:], strict=False))
        return right / len(chosen)

    return Task("magika", model, "accuracy", calibration, evaluate, batches=(1, 8))


def _labelled(folder: Path, space: list[str]) -> list[tuple[str, int]]:
    """Files with the label of their extension, in a seeded order."""
    known = json.loads((folder / "config" / "content_types_kb.min.json").read_text())
    claims: dict[str, list[str]] = {}
    for label in space:
        for extension in known[label]["extensions"]:
            claims.setdefault(extension, []).append(label)
    label_of = {ext: labels[0] for ext, labels in claims.items() if len(labels) == 1}
    by_label: dict[str, list[str]] = {}
    for path in _installed():
        label = label_of.get(path.suffix[1:].lower())
        if label is not None:
            by_label.setdefault(label, []).append(str(path))
    shuffler = random.Random(0)
    chosen = []
    for label, paths in sorted(by_label.items()):
        for path in shuffler.sample(paths, min(len(paths), PER_LABEL)):
            chosen.append((path, space.index(label)))
    shuffler.shuffle(chosen)
    return chosen


def _installed() -> Iterator[Path]:
    """Files of Python's library, of packages and of the system, of a kilobyte and more."""
    roots = {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "/usr/share", "/usr/lib"}
    for root in sorted(roots):
        for path in sorted(Path(root).rglob("*.*")):
            plain = path.is_file() and not path.is_symlink()
            if plain and 1000 <= path.stat().st_size < 1 << 24:
                yield path


def _features(paths: list[str], config: dict[str, Any]) -> Any:
    """Inputs as magika's own code makes them."""
    import io

    from magika.magika import Magika
    from magika.types import Seekable

    rows = []
    for path in paths:
        found = Magika._extract_features_from_seekable(
            Seekable(io.BytesIO(Path(path).read_bytes())),
            config["beg_size"],
            config["mid_size"],
            config["end_size"],
            config["padding_token"],
            config["block_size"],
            config["use_inputs_at_offsets"],
        )
        rows.append([*found.beg, *found.end])
    return np.array(rows, np.int32)
