from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chain_of_weights import chain, edit, holds, names

from graphopt.errors import GraphoptError
from graphopt.model import load, save
from graphopt.model.atomic import staged


@pytest.mark.parametrize("external_data", [False, True])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, external_data: bool
) -> None:
    path = tmp_path / "m.onnx"
    save(chain(), path, external_data=external_data)
    before = names(tmp_path)
    model = chain()
    edit(model)
    real = os.fsync

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def full_at(turn: int) -> Callable[[int], None]:
        turns = itertools.count(1)

        def fsync(fd: int) -> None:
            if next(turns) == turn:
                full()
            real(fd)

        return fsync

    for call in ("write", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(GraphoptError, match=r"m\.onnx: cannot be written: No space left"):
                save(model, path, external_data=external_data)
        assert names(tmp_path) == before
        assert holds(load(path))
    for turn in range(1, 9):
        save(chain(), path, external_data=external_data)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full_at(turn))
            try:
                save(model, path, external_data=external_data)
            except GraphoptError as error:
                assert "No space left" in str(error)  # noqa: PT017 # late failures are survived
        now = load(path)
        assert holds(now) or holds(now, edited=("w1",))
        assert not [name for name in names(tmp_path) if name.endswith(".tmp")]


@pytest.mark.parametrize("edited", [False, True])
def test_a_limit_on_file_sizes_is_one_line(tmp_path: Path, *, edited: bool) -> None:
    """A write that stops half-way says why: copied by the kernel, and from memory."""
    path = tmp_path / "m.onnx"
    save(chain(), path, external_data=True)
    script = (
        "import resource, sys\n"
        "import onnx_ir as ir\n"
        "from graphopt.errors import GraphoptError\n"
        "from graphopt.model import load, save\n"
        "model = load(sys.argv[1])\n"
        "for value in model.graph.initializers.values() if len(sys.argv) > 3 else ():\n"
        "    value.const_value = ir.Tensor(value.const_value.numpy() * 2, name=value.name)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "try: save(model, sys.argv[2], external_data=True)\n"
        "except GraphoptError as error: print(error)"
    )
    target = tmp_path / "folder" / "n.onnx"
    target.parent.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script, path, target, *(["edited"] if edited else [])],
        capture_output=True,
        text=True,
        check=True,
    )
    fix = "raise the limit on the size of files, or choose another disk"
    assert done.stdout == f"{target}: cannot be written: File too large; {fix}\n"
    assert names(target.parent) == []


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    real = os.open

    def refuse(path: object, flags: int, *rest: int, **names: int) -> int:
        if flags & (os.O_CREAT | os.O_RDWR):
            raise OSError(code, os.strerror(code))
        return real(path, flags, *rest, **names)  # type: ignore[arg-type] # passed on as it came

    path = tmp_path / "m.onnx"
    save(chain(), path)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(GraphoptError, match="choose a folder that can be written"):
        save(chain(), path)
    monkeypatch.undo()
    assert holds(load(path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    save(chain(), tmp_path / "m.onnx")
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(GraphoptError, match="choose a folder that can be written"):
            save(chain(), tmp_path / "m.onnx")
        assert holds(load(tmp_path / "m.onnx"))
    finally:
        tmp_path.chmod(0o755)


def test_targets_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match="is a directory"):
        save(chain(), tmp_path)
    with pytest.raises(GraphoptError, match="its folder does not exist; create"):
        save(chain(), tmp_path / "absent" / "m.onnx")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(GraphoptError, match="is no regular file; name a file, or - for stdout"):
        save(chain(), tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


STEPS = ("write", "fsync", "link", "unlink", "replace", "close", "copy_file_range")


@pytest.mark.parametrize(("external_data", "shared"), [(False, False), (True, False), (True, True)])
def test_killed_at_every_step_a_model_is_there(
    tmp_path: Path, *, external_data: bool, shared: bool
) -> None:
    """The process kills itself before its n-th call of the system, for every n."""
    path, source = tmp_path / "m.onnx", tmp_path / "source"
    edited = chain()
    edit(edited)
    outcomes = set()
    for step in range(1, 60):
        for entry in tmp_path.iterdir():
            entry.unlink()
        save(chain(), path, external_data=external_data)
        save(edited, source, external_data=shared)
        killed = _fork(lambda step=step: _save_and_die(source, path, step, external_data))
        now = load(path)
        outcomes.add("old" if holds(now) else "new")
        assert holds(now) or holds(now, edited=("w1",))
        save(edited, path, external_data=external_data)
        assert holds(load(path), edited=("w1",))
        if not killed:
            break
    else:
        pytest.fail("the save never ended")
    assert outcomes == {"old", "new"}


def test_killed_while_it_is_written_a_file_leaves_nothing(tmp_path: Path) -> None:
    with staged(tmp_path / "probe", None) as file:
        if file.path.exists():
            pytest.skip("this file system has no files without a name")

    def write_and_die() -> None:
        with staged(tmp_path / "m.onnx", None) as file:
            file.write(b"x" * 100_000)
            os.kill(os.getpid(), signal.SIGKILL)

    assert _fork(write_and_die)
    assert names(tmp_path) == []


def _fork(work: Callable[[], None]) -> bool:
    """Run work in a child process; say whether it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _save_and_die(source: Path, path: Path, step: int, external_data: bool) -> None:
    count = 0

    def deadly(call: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object, **options: object) -> object:
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return counted

    model = load(source)
    edit(model)
    for name in STEPS:
        setattr(os, name, deadly(getattr(os, name)))
    Path.replace = deadly(Path.replace)  # type: ignore[method-assign] # in a child that dies
    Path.unlink = deadly(Path.unlink)  # type: ignore[method-assign]
    save(model, path, external_data=external_data)


def test_killed_at_random_moments_a_model_is_there(tmp_path: Path) -> None:
    path, source = tmp_path / "m.onnx", tmp_path / "source.onnx"
    edited = chain()
    edit(edited)
    save(chain(), path, external_data=True)
    save(edited, source, external_data=True)
    script = (
        "import sys; from graphopt.model import load, save\n"
        "models = [load(name) for name in sys.argv[1:]]\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for model in models: save(model, sys.argv[1], external_data=True)"
    )
    random = np.random.default_rng(0)
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", script, path, source], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(random.uniform(0.001, 0.2))
            process.kill()
        now = load(path)
        assert holds(now) or holds(now, edited=("w1",))
