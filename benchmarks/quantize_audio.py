"""Tasks on sound: silero-vad on synthesized speech in noise.

espeak-ng and flite, where they are installed, speak sentences of Python's language reference. Which
frames hold speech is read off the clean sound; pauses, and noise without speech, are the rest.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import wave
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from quantize_task import AbsentError, Arrays, Places, Run, Task, package, require
from quantize_text import prose

RATE, FRAME, CONTEXT = 16000, 512, 64
CLIPS = 24
SECONDS = 8
MODELS = ("silero_vad", "silero_vad_op18_ifless")


def tasks() -> dict[str, Callable[[Places], Task]]:
    return {name: partial(_silero, name) for name in MODELS}


def _silero(name: str, places: Places) -> Task:
    model = package("silero_vad") / "data" / f"{name}.onnx"
    if not model.is_file():
        raise AbsentError(f"no {name}.onnx in package silero_vad")
    require("sklearn")
    require("scipy")

    def calibration() -> Arrays:
        frames, _ = _clips(places.cache, test=False)
        states, inputs = _states(_cpu(model), frames)
        chosen = np.random.default_rng(0).choice(inputs.shape[0], 128, replace=False)
        return {
            "input": inputs[chosen],
            "state": np.ascontiguousarray(states[:, chosen]),
            "sr": np.array(RATE, np.int64),
        }

    def evaluate(run: Run) -> float:
        from sklearn.metrics import roc_auc_score

        frames, labels = _clips(places.cache, test=True)
        scores, state = [], np.zeros((2, CLIPS, 128), np.float32)
        for frame in frames.transpose(1, 0, 2):
            found = run({"input": frame, "state": state, "sr": np.array(RATE, np.int64)})
            scores.append(found[0][:, 0])
            state = found[1]
        scored = np.stack(scores, axis=1).ravel()
        return float(roc_auc_score(labels.ravel(), scored)) if np.isfinite(scored).all() else 0.5

    return Task(name, model, "AUC", calibration, evaluate, axes={"state": 1}, batches=(1, 8))


def _cpu(model: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def _states(run: Run, frames: Any) -> tuple[Any, Any]:
    """The state before each frame, from the float model, and the frames."""
    state = np.zeros((2, frames.shape[0], 128), np.float32)
    states = []
    for frame in frames.transpose(1, 0, 2):
        states.append(state)
        state = run({"input": frame, "state": state, "sr": np.array(RATE, np.int64)})[1]
    return np.concatenate(states, axis=1), frames.transpose(1, 0, 2).reshape(-1, FRAME + CONTEXT)


def _clips(cache: Path, test: bool) -> tuple[Any, Any]:
    """Frames with their context [clip, frame, 576], and whether each holds speech."""
    kept = cache / f"speech_{'test' if test else 'calibration'}.npz"
    if not kept.exists():
        frames, labels = zip(*(_clip(place + CLIPS * test) for place in range(CLIPS)), strict=True)
        np.savez(kept, frames=np.stack(frames), labels=np.stack(labels))
    with np.load(kept) as data:
        return data["frames"], data["labels"]


def _clip(seed: int) -> tuple[Any, Any]:
    """Some seconds of speech with pauses, or of none, in noise of some kind and strength."""
    generator = np.random.default_rng(seed)
    sound = np.zeros(SECONDS * RATE, np.float32)
    place = int(generator.uniform(0.2, 1.5) * RATE)
    sentences = prose()
    while seed % 4 and place < len(sound):
        said = _spoken(sentences[int(generator.integers(len(sentences)))], seed)
        said = said[: len(sound) - place]
        sound[place : place + len(said)] = said * generator.uniform(0.3, 1.0)
        place += len(said) + int(generator.uniform(0.5, 2.5) * RATE)
    cut = len(sound) // FRAME * FRAME
    energy = np.sqrt(np.mean(sound[:cut].reshape(-1, FRAME) ** 2, axis=1))
    labels = energy > 0.01
    noisy = sound + _noise(len(sound), generator) * 10 ** generator.uniform(-2.3, -0.9)
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), noisy[:cut]]).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + FRAME)[::FRAME]
    return np.ascontiguousarray(windows), labels


def _noise(length: int, generator: Any) -> Any:
    """White, brownish or humming noise of root mean square 1."""
    white = generator.standard_normal(length)
    kind = generator.integers(3)
    if kind == 1:
        spectrum = np.fft.rfft(white)
        white = np.fft.irfft(spectrum / np.sqrt(1 + np.arange(len(spectrum))), length)
    elif kind == 2:
        time = np.arange(length) / RATE
        base = generator.uniform(50, 400)
        tones = sum(np.sin(2 * np.pi * base * k * time) / k for k in range(1, 6))
        white = 0.3 * white + tones
    return white / np.sqrt(np.mean(white**2))


def _spoken(text: str, seed: int) -> Any:
    """Speech at 16 kHz, its peak at 0.5; both synthesizers in turn."""
    from scipy.signal import resample_poly

    programs = [name for name in ("espeak-ng", "flite") if shutil.which(name)]
    if not programs:
        raise AbsentError("neither espeak-ng nor flite is installed")
    program = programs[seed % len(programs)]
    voices = (
        ("en-us", "en-gb+f3", "en-us+m3", "en-gb")
        if program == "espeak-ng"
        else ("kal16", "slt", "rms", "awb")
    )
    voice = voices[seed // 2 % 4]
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "out.wav")
        command = (
            [program, "-v", voice, "-w", out, text]
            if program == "espeak-ng"
            else [program, "-voice", voice, "-t", text, "-o", out]
        )
        subprocess.run(command, check=True, capture_output=True)
        with wave.open(out) as file:
            rate = file.getframerate()
            sound = np.frombuffer(file.readframes(file.getnframes()), np.int16) / 32768
    sound = resample_poly(sound, RATE, rate)
    return (0.5 * sound / max(np.abs(sound).max(), 1e-6)).astype(np.float32)
