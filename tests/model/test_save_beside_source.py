from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from chain_of_weights import chain, edit, holds, names, weight

from graphopt.errors import GraphoptError
from graphopt.model import load, save
from graphopt.model.mapped import MappedFile


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


def test_a_name_that_other_saves_do_not_look_at_takes_a_copy_of_its_weights(
    tmp_path: Path,
) -> None:
    save(chain(), tmp_path / "m.onnx", external_data=True)
    saved = save(load(tmp_path / "m.onnx"), tmp_path / "n.model", external_data=True)
    assert saved.data_files == (tmp_path / "n.model.data",)
    model = load(tmp_path / "m.onnx")
    edit(model)
    save(model, tmp_path / "m.onnx", external_data=False)
    assert names(tmp_path) == ["m.onnx", "n.model", "n.model.data"]
    assert holds(load(tmp_path / "n.model"))
    again = save(load(tmp_path / "n.model"), tmp_path / "n.model", external_data=True)
    assert again.data_files == (tmp_path / "n.model.data",)


def test_a_model_does_not_replace_its_own_weights(tmp_path: Path) -> None:
    save(chain(), tmp_path / "m.onnx", external_data=True)
    with pytest.raises(GraphoptError, match="holds weights of the model"):
        save(load(tmp_path / "m.onnx"), tmp_path / "m.onnx.data")
    assert holds(load(tmp_path / "m.onnx"))


def test_weights_in_a_folder_below_are_copied(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    save(chain(), tmp_path / "sub" / "m.onnx", external_data=True)
    proto = onnx.load(tmp_path / "sub" / "m.onnx", load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = f"sub/{entry.value}"
    onnx.save(proto, tmp_path / "top.onnx")
    saved = save(load(tmp_path / "top.onnx"), tmp_path / "other.onnx", external_data=True)
    assert saved.data_files == (tmp_path / "other.onnx.data",)
    assert saved.shared == ()
