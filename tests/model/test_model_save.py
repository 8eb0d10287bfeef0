from __future__ import annotations

import errno
import importlib
import io
import itertools
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.errors import GraphoptError
from graphopt.model import load, save
from graphopt.model.mapped import MappedFile

SIDE = 64
NAMES = ("w0", "w1", "w2")


def chain() -> ir.Model:
    """Three MatMul nodes with weights of 16 KiB: counts that start at 0, 1 and 2."""
    kind, shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([SIDE, SIDE])
    value = source = ir.Value(name="x", type=kind, shape=ir.Shape(["N", SIDE]))
    nodes, weights = [], []
    for number, name in enumerate(NAMES):
        tensor = ir.Tensor(weight(number), name=name)
        weights.append(ir.Value(name=name, type=kind, shape=shape, const_value=tensor))
        nodes.append(ir.Node("", "MatMul", [value, weights[-1]], name=f"node{number}"))
        value = nodes[-1].outputs[0]
        value.name = f"y{number}"
    value.type, value.shape = kind, source.shape
    graph = ir.Graph(
        [source], [value], nodes=nodes, initializers=weights, opset_imports={"": 18}, name="chain"
    )
    return ir.Model(graph, ir_version=10)


def weight(start: int) -> np.ndarray:
    return np.arange(start, start + SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)


def edit(model: ir.Model, name: str = "w1") -> None:
    model.graph.initializers[name].const_value = ir.Tensor(weight(1) * 0, name=name)


def holds(model: ir.Model, *, edited: tuple[str, ...] = ()) -> bool:
    return all(
        np.array_equal(
            model.graph.initializers[name].const_value.numpy(),
            weight(number) * (name not in edited),
        )
        for number, name in enumerate(NAMES)
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("external_data", [False, True])
def test_a_saved_model_is_valid_and_runs(tmp_path: Path, *, external_data: bool) -> None:
    import onnxruntime

    path = tmp_path / "m.onnx"
    saved = save(chain(), path, external_data=external_data)
    assert saved.path == path
    assert saved.size == sum(entry.stat().st_size for entry in tmp_path.iterdir())
    assert names(tmp_path) == (["m.onnx", "m.onnx.data"] if external_data else ["m.onnx"])
    assert saved.data_files == ((tmp_path / "m.onnx.data",) if external_data else ())
    onnx.checker.check_model(path)
    assert holds(load(path))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = np.ones((1, SIDE), np.float32)
    expected = x @ weight(0) @ weight(1) @ weight(2)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-5)


def test_large_external_tensors_start_on_pages(tmp_path: Path) -> None:
    save(chain(), tmp_path / "m.onnx", external_data=True)
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    offsets = [
        int(entry.value)
        for tensor in proto.graph.initializer
        for entry in tensor.external_data
        if entry.key == "offset"
    ]
    assert [offset % 4096 for offset in offsets] == [0, 0, 0]


def test_equal_tensors_are_stored_once(tmp_path: Path) -> None:
    model = chain()
    shared = model.graph.initializers["w0"].const_value
    for name in NAMES:
        model.graph.initializers[name].const_value = shared
    save(model, tmp_path / "m.onnx", external_data=True)
    assert (tmp_path / "m.onnx.data").stat().st_size == weight(0).nbytes
    loaded = load(tmp_path / "m.onnx")
    save(loaded, tmp_path / "n.onnx", external_data=True)
    for name in NAMES:
        array = loaded.graph.initializers[name].const_value.numpy()
        np.testing.assert_array_equal(array, weight(0))


@pytest.mark.parametrize("external_data", [False, True])
def test_saving_over_the_source_and_using_the_model_afterwards(
    tmp_path: Path, *, external_data: bool
) -> None:
    path = tmp_path / "m.onnx"
    save(chain(), path, external_data=external_data)
    model = load(path)
    edit(model)
    for _ in range(3):
        save(model, path, external_data=external_data)
        assert holds(model, edited=("w1",))
        assert holds(load(path), edited=("w1",))
    assert names(tmp_path) == (["m.onnx", "m.onnx.data"] if external_data else ["m.onnx"])
    edit(model, "w2")
    save(model, path, external_data=not external_data)
    assert holds(model, edited=("w1", "w2"))
    assert holds(load(path), edited=("w1", "w2"))
    assert names(tmp_path) == (["m.onnx"] if external_data else ["m.onnx", "m.onnx.data"])


@pytest.mark.parametrize("external_data", [False, True])
def test_same_model_same_bytes(tmp_path: Path, *, external_data: bool) -> None:
    """Also where a first save, or another model, stands there already."""
    path = tmp_path / "m.onnx"

    def contents() -> list[bytes]:
        return [entry.read_bytes() for entry in sorted(tmp_path.iterdir())]

    save(chain(), path, external_data=external_data)
    first = contents()
    save(chain(), path, external_data=external_data)
    assert contents() == first
    other = chain()
    edit(other)
    save(other, path, external_data=True)
    save(chain(), path, external_data=external_data)
    assert contents() == first
    save(load(path), path, external_data=external_data)
    assert contents() == first


def test_unedited_external_weights_are_referred_to_in_their_folder(tmp_path: Path) -> None:
    save(chain(), tmp_path / "m.onnx", external_data=True)
    model = load(tmp_path / "m.onnx")
    saved = save(model, tmp_path / "n.onnx", external_data=True)
    assert saved.data_files == (tmp_path / "m.onnx.data",)
    assert holds(load(tmp_path / "n.onnx"))
    (tmp_path / "elsewhere").mkdir()
    save(model, tmp_path / "elsewhere" / "n.onnx", external_data=True)
    assert names(tmp_path / "elsewhere") == ["n.onnx", "n.onnx.data"]


def test_only_new_weights_are_written_beside_the_source(tmp_path: Path) -> None:
    save(chain(), tmp_path / "m.onnx", external_data=True)
    model = load(tmp_path / "m.onnx")
    edit(model)
    for _ in range(2):
        saved = save(model, tmp_path / "n.onnx", external_data=True)
        assert saved.data_files == (tmp_path / "m.onnx.data", tmp_path / "n.onnx.data")
        assert saved.shared == (tmp_path / "m.onnx.data",)
        assert names(tmp_path) == ["m.onnx", "m.onnx.data", "n.onnx", "n.onnx.data"]
        assert (tmp_path / "n.onnx.data").stat().st_size == weight(1).nbytes
        assert holds(load(tmp_path / "n.onnx"), edited=("w1",))
        onnx.checker.check_model(tmp_path / "n.onnx")
    assert holds(load(tmp_path / "m.onnx"))
    (tmp_path / "elsewhere").mkdir()
    alone = save(model, tmp_path / "elsewhere" / "n.onnx", external_data=True)
    assert alone.shared == ()
    assert holds(load(tmp_path / "elsewhere" / "n.onnx"), edited=("w1",))


def test_all_weights_are_written_where_more_are_new_than_stay(tmp_path: Path) -> None:
    save(chain(), tmp_path / "m.onnx", external_data=True)
    model = load(tmp_path / "m.onnx")
    edit(model, "w0")
    edit(model, "w1")
    saved = save(model, tmp_path / "n.onnx", external_data=True)
    assert saved.data_files == (tmp_path / "n.onnx.data",)
    assert holds(load(tmp_path / "n.onnx"), edited=("w0", "w1"))


def test_weights_in_a_mostly_dead_file_are_written_anew(tmp_path: Path) -> None:
    """Two edits in a row, each of a third: the second leaves a third of the first file in use."""
    save(chain(), tmp_path / "m.onnx", external_data=True)
    sizes = {}
    for name, source, edited in (("n", "m", "w1"), ("o", "n", "w0")):
        model = load(tmp_path / f"{source}.onnx")
        edit(model, edited)
        saved = save(model, tmp_path / f"{name}.onnx", external_data=True)
        sizes[name] = {path.name: path.stat().st_size for path in saved.data_files}
    one = weight(0).nbytes
    assert sizes["n"] == {"m.onnx.data": 3 * one, "n.onnx.data": one}
    assert sizes["o"] == {"o.onnx.data": 3 * one}
    assert holds(load(tmp_path / "o.onnx"), edited=("w0", "w1"))


def test_editing_and_saving_over_and_over_leaves_no_dead_bytes(tmp_path: Path) -> None:
    """Beside the source, over itself, each time one more version of a weight."""
    save(chain(), tmp_path / "m.onnx", external_data=True)
    save_one_edit(tmp_path / "m.onnx", tmp_path / "n.onnx", 0)
    for version in range(1, 5):
        save_one_edit(tmp_path / "n.onnx", tmp_path / "n.onnx", version)
        assert names(tmp_path) == ["m.onnx", "m.onnx.data", "n.onnx", "n.onnx.data"]
        assert (tmp_path / "n.onnx.data").stat().st_size == weight(0).nbytes
        held = load(tmp_path / "n.onnx").graph.initializers["w1"].const_value
        np.testing.assert_array_equal(held.numpy(), weight(version))
    assert holds(load(tmp_path / "m.onnx"))


def save_one_edit(source: Path, target: Path, version: int) -> None:
    model = load(source)
    model.graph.initializers["w1"].const_value = ir.Tensor(weight(version), name="w1")
    save(model, target, external_data=True)


def test_a_data_file_for_each_weight_is_shared_too(tmp_path: Path) -> None:
    proto = onnx.load_from_string(ir.to_proto(chain()).SerializeToString())
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, all_tensors_to_one_file=False)
    model = load(tmp_path / "m.onnx")
    edit(model)
    saved = save(model, tmp_path / "n.onnx", external_data=True)
    assert [path.name for path in saved.data_files] == ["w0", "w2", "n.onnx.data"]
    assert holds(load(tmp_path / "n.onnx"), edited=("w1",))
    (tmp_path / "w0").unlink()
    (tmp_path / "w0").hardlink_to(tmp_path / "w2")
    saved = save(model, tmp_path / "o.onnx", external_data=True)
    assert [path.name for path in saved.data_files] == ["o.onnx.data"]


def test_data_that_another_model_refers_to_stay(tmp_path: Path) -> None:
    save(chain(), tmp_path / "m.onnx", external_data=True)
    model = load(tmp_path / "m.onnx")
    save(model, tmp_path / "n.onnx", external_data=True)
    edit(model)
    saved = save(model, tmp_path / "m.onnx", external_data=True)
    assert saved.data_files == (tmp_path / "m.onnx.1.data",)
    assert holds(load(tmp_path / "n.onnx"))
    assert holds(load(tmp_path / "m.onnx"), edited=("w1",))
    (tmp_path / "n.onnx").unlink()
    save(chain(), tmp_path / "m.onnx", external_data=True)
    assert names(tmp_path) == ["m.onnx", "m.onnx.data"]


def test_data_files_of_other_names_stay(tmp_path: Path) -> None:
    proto = onnx.load_from_string(ir.to_proto(chain()).SerializeToString())
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin")
    model = load(tmp_path / "m.onnx")
    edit(model)
    saved = save(model, tmp_path / "m.onnx", external_data=True)
    assert names(tmp_path) == ["m.onnx", "m.onnx.data", "weights.bin"]
    assert saved.shared == (tmp_path / "weights.bin",)
    assert holds(load(tmp_path / "m.onnx"), edited=("w1",))
    save(chain(), tmp_path / "m.onnx", external_data=True)
    assert names(tmp_path) == ["m.onnx", "m.onnx.data", "weights.bin"]


def test_a_data_file_that_changed_since_is_not_referred_to(tmp_path: Path) -> None:
    save(chain(), tmp_path / "m.onnx", external_data=True)
    model = load(tmp_path / "m.onnx")
    other = chain()
    edit(other)
    save(other, tmp_path / "m.onnx", external_data=True)
    save(model, tmp_path / "n.onnx", external_data=True)
    assert holds(load(tmp_path / "n.onnx"))
    assert holds(load(tmp_path / "m.onnx"), edited=("w1",))


def test_untouched_weights_are_copied_by_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(chain(), tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    edit(model)
    monkeypatch.setattr(MappedFile, "view", lambda *_: pytest.fail("a weight was read"))
    save(model, tmp_path / "n.onnx", external_data=True)
    save(model, tmp_path / "o.onnx")
    monkeypatch.undo()
    assert holds(load(tmp_path / "n.onnx"), edited=("w1",))
    assert holds(load(tmp_path / "o.onnx"), edited=("w1",))


def test_without_copy_file_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def across(*_: object, **__: object) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    save(chain(), tmp_path / "m.onnx", external_data=True)
    monkeypatch.setattr(os, "copy_file_range", across)
    model = load(tmp_path / "m.onnx")
    edit(model)
    save(model, tmp_path / "n.onnx", external_data=True)
    assert holds(load(tmp_path / "n.onnx"), edited=("w1",))


def test_lazy_weights_are_evaluated_one_at_a_time(tmp_path: Path) -> None:
    alive: list[int] = []
    most = 0

    class Counted(ir.Tensor):
        def __init__(self, number: int) -> None:
            nonlocal most
            super().__init__(weight(number))
            alive.append(number)
            most = max(most, len(alive))

        def __del__(self) -> None:
            alive.pop()

    model = chain()
    for number, name in enumerate(NAMES):
        value = model.graph.initializers[name]
        value.const_value = ir.LazyTensor(
            lambda number=number: Counted(number), ir.DataType.FLOAT, value.shape, name=name
        )
    save(model, tmp_path / "m.onnx", external_data=True)
    save(model, tmp_path / "n.onnx")
    assert most == 1
    assert holds(load(tmp_path / "m.onnx"))
    assert holds(load(tmp_path / "n.onnx"))


def test_a_lazy_weight_of_another_size_is_refused(tmp_path: Path) -> None:
    save(chain(), tmp_path / "m.onnx")
    model = chain()
    value = model.graph.initializers["w1"]
    value.const_value = ir.LazyTensor(
        lambda: ir.Tensor(weight(0)[1:]), ir.DataType.FLOAT, value.shape, name="w1"
    )
    for external_data in (False, True):
        with pytest.raises(GraphoptError, match=r"m\.onnx: the tensor 'w1' .* 16128 bytes"):
            save(model, tmp_path / "m.onnx", external_data=external_data)
        assert names(tmp_path) == ["m.onnx"]
        assert holds(load(tmp_path / "m.onnx"))


def test_the_model_is_as_it_was_after_a_save(tmp_path: Path) -> None:
    model = chain()
    before = ir.to_proto(model)
    save(model, tmp_path / "m.onnx", external_data=True)
    save(model, tmp_path / "n.onnx", sparse_storage=True)
    assert ir.to_proto(model) == before
    assert all(isinstance(v.const_value, ir.Tensor) for v in model.graph.initializers.values())


def test_above_two_gigabytes_weights_go_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = chain()
    value = model.graph.initializers["w1"]
    value.shape = shape = ir.Shape([1 << 10, 1 << 20])
    value.const_value = ir.LazyTensor(
        lambda: pytest.fail("nothing is computed"), ir.DataType.FLOAT, shape, name="w1"
    )
    with pytest.raises(GraphoptError, match="protobuf holds 2 GB; store the weights as external"):
        save(model, tmp_path / "m.onnx", external_data=False)
    assert names(tmp_path) == []
    module = importlib.import_module("graphopt.model.save")
    monkeypatch.setattr(module, "_EXTERNAL_ABOVE", 3 * weight(0).nbytes - 1)
    assert save(chain(), tmp_path / "m.onnx").data_files
    monkeypatch.setattr(module, "_EXTERNAL_ABOVE", 3 * weight(0).nbytes)
    assert not save(chain(), tmp_path / "m.onnx").data_files


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
        if flags & os.O_CREAT:
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


def test_permissions_follow_the_umask_and_survive(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    old = os.umask(0o027)
    try:
        save(chain(), path, external_data=True)
    finally:
        os.umask(old)
    modes = [stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.iterdir()]
    assert modes == [0o640, 0o640]
    path.chmod(0o604)
    save(chain(), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_a_symbolic_link_is_replaced_and_its_target_stays(tmp_path: Path) -> None:
    save(chain(), tmp_path / "blob")
    (tmp_path / "m.onnx").symlink_to("blob")
    model = load(tmp_path / "m.onnx")
    edit(model)
    save(model, tmp_path / "m.onnx")
    assert holds(load(tmp_path / "blob"))
    assert holds(load(tmp_path / "m.onnx"), edited=("w1",))


def test_a_model_to_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream))
    saved = save(chain(), "-")
    assert saved.size == len(stream.getvalue())
    onnx.checker.check_model(onnx.load_from_string(stream.getvalue()))
    with pytest.raises(GraphoptError, match=r"^<stdout>: a stream cannot have external data"):
        save(chain(), "-", external_data=True)


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


@pytest.mark.parametrize("declared", [False, True], ids=["plain", "with a value_info"])
def test_an_initializer_may_be_an_output(tmp_path: Path, *, declared: bool) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[2] x) => (float[2] y, float[2] w)'
        "<float[2] w = {1, 2}> { y = Add(x, w) }"
    )
    if declared:
        proto.graph.value_info.append(proto.graph.output[1])
    else:
        del proto.graph.value_info[:]
    onnx.save(proto, tmp_path / "in.onnx")
    save(load(tmp_path / "in.onnx"), tmp_path / "out.onnx")
    made = onnx.load(tmp_path / "out.onnx")
    assert made.graph.output == proto.graph.output
    assert [info.name for info in made.graph.value_info] == (["w"] if declared else [])
