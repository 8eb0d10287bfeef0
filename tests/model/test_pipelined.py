from __future__ import annotations

import errno
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from graphopt.errors import GraphoptError
from graphopt.model import pipelined
from graphopt.model.atomic import StagedFile, staged
from graphopt.model.pipelined import Part, write_parts

SIZE = 1024


def row(number: int) -> np.ndarray:
    return np.full(SIZE, number, np.float32)


def lazy(make: Callable[[], np.ndarray], name: str = "w") -> ir.LazyTensor:
    return ir.LazyTensor(lambda: ir.Tensor(make()), ir.DataType.FLOAT, ir.Shape([SIZE]), name=name)


def written(folder: Path, parts: list[Part]) -> bytes:
    with staged(folder / "out", None) as file:
        write_parts(file, parts)
        file.publish(folder / "out")
    return (folder / "out").read_bytes()


def writers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "graphopt-writer" in thread.name]


def test_parts_stand_in_order_and_where_they_were_asked_to(tmp_path: Path) -> None:
    tensor = ir.Tensor(np.arange(6, dtype=np.int16).reshape(2, 3).T)
    packed = ir.tensor([1, -2, 3], dtype=ir.DataType.INT4)
    parts = [Part(b"ab"), Part(lazy(lambda: row(1))), Part(tensor, 2 + 4 * SIZE), Part(packed)]
    expected = b"ab" + row(1).tobytes() + tensor.tobytes() + packed.tobytes()
    assert written(tmp_path, parts) == expected
    assert written(tmp_path, [Part(b"ab", 3)]) == b"\0\0\0ab"


def test_the_next_tensor_is_computed_while_one_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write of the first waits for the second to be computed: one after the other hangs."""
    computed = threading.Event()
    write = StagedFile.write

    def wait_and_write(file: StagedFile, data: bytes | memoryview) -> int:
        assert computed.wait(60)
        return write(file, data)

    def second() -> np.ndarray:
        computed.set()
        return row(2)

    monkeypatch.setattr(StagedFile, "write", wait_and_write)
    parts = [Part(lazy(lambda: row(1))), Part(lazy(second))]
    assert written(tmp_path, parts) == row(1).tobytes() + row(2).tobytes()


def test_one_tensor_is_in_memory_and_few_wait_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: set[int] = set()
    computed = done = most_alive = most_ahead = 0
    write = StagedFile.write

    def make(number: int) -> np.ndarray:
        nonlocal computed, most_alive, most_ahead
        array = row(number)
        alive.add(number)
        weakref.finalize(array, alive.discard, number)
        computed += 1
        most_alive, most_ahead = max(most_alive, len(alive)), max(most_ahead, computed - done)
        return array

    def slow(file: StagedFile, data: bytes | memoryview) -> int:
        nonlocal done
        time.sleep(0.01)
        done += 1
        return write(file, data)

    monkeypatch.setattr(pipelined, "_ROOM", 4 * SIZE)
    monkeypatch.setattr(pipelined, "_ROOMS", 2)
    monkeypatch.setattr(StagedFile, "write", slow)
    parts = [Part(lazy(lambda number=number: make(number))) for number in range(8)]
    assert written(tmp_path, parts) == b"".join(row(number).tobytes() for number in range(8))
    assert most_alive == 1
    assert most_ahead <= 3


def test_a_tensor_of_many_pieces_is_written_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelined, "_ROOM", 100)
    content = np.arange(SIZE, dtype=np.float32)
    assert written(tmp_path, [Part(b"a"), Part(lazy(lambda: content))])[1:] == content.tobytes()


@pytest.mark.parametrize("failure", [ZeroDivisionError, KeyboardInterrupt, GraphoptError])
def test_what_stops_a_computation_stops_the_write(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    def fail() -> np.ndarray:
        if failure is GraphoptError:
            return row(0)[1:]
        raise failure

    parts = [Part(lazy(lambda: row(1))), Part(lazy(fail)), Part(lazy(lambda: row(2)))]
    with pytest.raises(failure):
        written(tmp_path, parts)
    assert not writers()
    assert not list(tmp_path.iterdir())


def test_what_stops_a_write_stops_the_computation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    computed: list[int] = []

    def make(number: int) -> np.ndarray:
        computed.append(number)
        return row(number)

    monkeypatch.setattr(StagedFile, "write", full)
    monkeypatch.setattr(pipelined, "_ROOMS", 2)
    parts = [Part(lazy(lambda number=number: make(number))) for number in range(50)]
    with pytest.raises(OSError, match="No space left") as stopped:
        written(tmp_path, parts)
    assert stopped.value.errno == errno.ENOSPC
    assert len(computed) <= 3
    assert not writers()
    assert not list(tmp_path.iterdir())
