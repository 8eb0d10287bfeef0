"""The tasks of `quantize.py`, and which of them this machine has."""

from __future__ import annotations

from collections.abc import Callable

import quantize_audio
import quantize_files
import quantize_ocr
import quantize_text
import quantize_vision
from quantize_task import AbsentError, Places, Task

MAKERS: dict[str, Callable[[Places], Task]] = {
    **quantize_vision.tasks(),
    **quantize_text.tasks(),
    **quantize_files.tasks(),
    **quantize_ocr.tasks(),
    **quantize_audio.tasks(),
}


def find(names: list[str], places: Places) -> tuple[list[Task], dict[str, str]]:
    """Make tasks.

    Returns:
        Those whose model, data and programs are here, and why the others are not.
    """
    tasks, absent = [], {}
    for name in names:
        try:
            tasks.append(MAKERS[name](places))
        except AbsentError as error:
            absent[name] = str(error)
    return tasks, absent
