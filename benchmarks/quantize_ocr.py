"""Tasks on rendered text: RapidOCR's detector, direction classifier and recognizer.

Lines are rendered in the fonts that matplotlib carries, and prepared as RapidOCR prepares images:
scaled to the model's height, (x / 255 - 0.5) / 0.5, zeros to the right.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from quantize_task import Arrays, Places, Run, Task, package, require
from quantize_text import prose

FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSerif", "DejaVuSerif-Italic")
CUT, UNCLIP = 0.3, 1.6
"""RapidOCR's threshold for the detector's map, and how far it grows what is above: the network is
trained on shrunk boxes (DB, Liao et al., 2020)."""


def tasks() -> dict[str, Callable[[Places], Task]]:
    return {"rapidocr_cls": _cls, "rapidocr_rec": _rec, "rapidocr_det": _det}


def _model(pattern: str) -> Any:
    require("PIL")
    require("matplotlib")
    require("scipy")
    return next(iter(sorted((package("rapidocr_onnxruntime") / "models").glob(pattern))))


def _rec(places: Places) -> Task:
    import onnx

    model = _model("*rec*.onnx")
    held = {p.key: p.value for p in onnx.load(model).metadata_props}
    characters = ["", *held["character"].splitlines(), " "]

    def calibration() -> Arrays:
        return {"x": np.stack([_prepared(_line(s)[0], 320) for s in range(1000, 1064)])}

    def evaluate(run: Run) -> float:
        """Of all characters, the share that need no edit."""
        edits = length = 0
        for start in range(0, 96, 8):
            lines = [_line(seed) for seed in range(start, start + 8)]
            scores = run({"x": np.stack([_prepared(image, 320) for image, _ in lines])})[0]
            for best, (_, text) in zip(scores.argmax(axis=2), lines, strict=True):
                edits += _distance(_decoded(best, characters), text)
                length += len(text)
        return 1 - edits / length

    return Task("rapidocr_rec", model, "character accuracy", calibration, evaluate, batches=(1, 8))


def _cls(places: Places) -> Task:
    def samples(first: int, count: int) -> Any:
        images = [
            _prepared(_line(seed, 192)[0], 192, seed % 2 == 1)
            for seed in range(first, first + count)
        ]
        return np.stack(images)

    def evaluate(run: Run) -> float:
        right = 0
        for start in range(0, 400, 20):
            found = run({"x": samples(start, 20)})[0].argmax(axis=1)
            right += int(np.sum(found == np.arange(20) % 2))
        return right / 400

    return Task(
        "rapidocr_cls",
        _model("*cls*.onnx"),
        "accuracy",
        lambda: {"x": samples(1000, 64)},
        evaluate,
        batches=(1, 8),
    )


def _det(places: Places) -> Task:
    def calibration() -> Arrays:
        return {"x": np.stack([_page(seed)[0] for seed in range(1000, 1032)])}

    def evaluate(run: Run) -> float:
        """F1 of the pixels in boxes, found against known."""
        hit = found = wanted = 0
        for seed in range(12):
            page, known = _page(seed)
            boxes = _boxes(run({"x": page[None]})[0][0, 0] > CUT)
            hit += int(np.sum(boxes & known))
            found += int(np.sum(boxes))
            wanted += int(np.sum(known))
        return 2 * hit / max(found + wanted, 1)

    model = _model("*det*.onnx")
    return Task("rapidocr_det", model, "F1 of pixels", calibration, evaluate, batches=(1, 8))


@cache
def _font(name: str, size: int) -> Any:
    from PIL import ImageFont

    folder = package("matplotlib") / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / f"{name}.ttf"), size)


def _line(seed: int, width: int = 320) -> tuple[Any, str]:
    """A noisy image of height 48 with words that fit into its width, and the words."""
    from PIL import Image, ImageDraw

    generator = random.Random(seed)
    font = _font(generator.choice(FONTS), generator.randint(22, 34))
    words = generator.choice(prose()).split()
    words = words[generator.randrange(len(words)) :]
    while len(words) > 1 and font.getlength(" ".join(words)) > width - 16:
        words.pop()
    text = " ".join(words)
    while font.getlength(text) > width - 16:
        text = text[:-1]
    long = int(font.getlength(text)) + 16
    dark, light = generator.randint(0, 90), generator.randint(170, 255)
    if generator.random() < 0.25:
        dark, light = light, dark
    image = Image.new("RGB", (long, 48), (light,) * 3)
    ink = tuple(min(255, max(0, dark + generator.randint(-30, 30))) for _ in range(3))
    ImageDraw.Draw(image).text((8, 24), text, fill=ink, font=font, anchor="lm")
    return _noisy(np.asarray(image), seed), text.strip()


def _noisy(image: Any, seed: int) -> Any:
    generator = np.random.default_rng(seed)
    strength = generator.uniform(0, 30)
    noise = generator.normal(0, strength, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.float32)


def _prepared(image: Any, width: int, turned: bool = False) -> Any:
    image = image[::-1, ::-1] if turned else image
    padded = np.zeros((3, 48, width), np.float32)
    padded[:, :, : image.shape[1]] = (image / 255 - 0.5).transpose(2, 0, 1) / 0.5
    return padded


def _page(seed: int) -> tuple[Any, Any]:
    """An image of 320 x 320 with lines of text, and where their boxes are."""
    from PIL import Image, ImageDraw

    generator = random.Random(seed)
    light, dark = generator.randint(180, 255), generator.randint(0, 80)
    image = Image.new("RGB", (320, 320), (light, light, generator.randint(180, 255)))
    draw = ImageDraw.Draw(image)
    boxes = np.zeros((320, 320), bool)
    top = generator.randint(4, 20)
    while top < 280:
        font = _font(generator.choice(FONTS), generator.randint(14, 28))
        left = generator.randint(4, 120)
        words = generator.choice(prose()).split()
        while len(words) > 1 and left + font.getlength(" ".join(words)) > 310:
            words.pop()
        text = " ".join(words)
        x0, y0, x1, y1 = draw.textbbox((left, top), text, font=font)
        if x1 < 316 and y1 < 316:
            draw.text((left, top), text, fill=(dark, dark, dark), font=font)
            boxes[int(y0) : int(y1), int(x0) : int(x1)] = True
        top = int(y1) + generator.randint(8, 40)
    pixels = _noisy(np.asarray(image), seed)
    return ((pixels / 255 - 0.5) / 0.5).transpose(2, 0, 1).astype(np.float32), boxes


def _boxes(above: Any) -> Any:
    """What is above the threshold, as boxes grown back; lines of text here are level."""
    from scipy.ndimage import find_objects, label

    grown = np.zeros_like(above)
    for rows, columns in find_objects(label(above)[0]):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        margin = round(height * width * UNCLIP / (2 * (height + width)))
        top, left = max(0, rows.start - margin), max(0, columns.start - margin)
        grown[top : rows.stop + margin, left : columns.stop + margin] = True
    return grown


def _decoded(best: Any, characters: Sequence[str]) -> str:
    """Greedy CTC: repeats are one, 0 is nothing."""
    kept = best[np.concatenate([[True], best[1:] != best[:-1]]) & (best != 0)]
    return "".join(characters[int(place)] for place in kept)


def _distance(found: str, wanted: str) -> int:
    """Levenshtein's."""
    row = list(range(len(wanted) + 1))
    for i, one in enumerate(found, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(wanted, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != other))
    return row[-1]
