from __future__ import annotations

import argparse
import json
import zipfile
from pathlib import Path

import pytest
import torch

from graphopt.convert import convert, finishing
from graphopt.errors import GraphoptError

pytestmark = pytest.mark.usefixtures("importable_sources")


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.witness,))


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_module_is_refused_and_not_unpickled(tmp_path: Path, zipped: bool) -> None:
    path, witness = tmp_path / "module.pt", tmp_path / "witness"
    torch.save(
        {"trap": Trap(witness), "w": torch.ones(1)}, path, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(GraphoptError, match=r"holds a pickled .*unpickling runs the code.*--model"):
        convert(str(path))
    import networks

    torch.save(networks.Mlp(), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(GraphoptError, match=r"holds a pickled networks\.Mlp"):
        convert(str(path))
    torch.save({"arguments": argparse.Namespace(a=1), "w": torch.ones(1)}, path)
    with pytest.raises(GraphoptError, match=r"holds a pickled argparse\.Namespace"):
        convert(str(path))
    assert not witness.exists()


def rewritten(source: Path, target: Path, change: dict[str, bytes]) -> Path:
    """Copy an archive, with some of its records replaced or added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        top = old.namelist()[0].partition("/")[0]
        for entry in old.infolist():
            name = entry.filename.partition("/")[2]
            new.writestr(entry, change.pop(name, old.read(entry)))
        for name, content in change.items():
            new.writestr(f"{top}/{name}", content)
    return target


def edited(source: Path, target: Path, *edits: tuple[str, str]) -> Path:
    with zipfile.ZipFile(source) as archive:
        name = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        text = archive.read(name).decode()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return rewritten(source, target, {"models/model.json": text.encode()})


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "double.pt2"

    class Double(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, x]).relu()

    torch.export.save(
        torch.export.export(
            Double(), (torch.ones(2, 3),), dynamic_shapes=({0: torch.export.Dim("rows")},)
        ),
        path,
    )
    return path


def test_unchanged_program_passes_the_screen(program: Path, tmp_path: Path) -> None:
    assert convert(str(rewritten(program, tmp_path / "copy.pt2", {}))).parity


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("torch.ops.aten.relu.default", "torch.os.system", "which is no operator of PyTorch"),
        ("torch.ops.aten.relu.default", "torch.ops.load_library", "no operator of PyTorch"),
        ("torch.ops.aten.relu.default", "torch.ops.aten.__class__.mro", "no operator of PyTorch"),
        ("torch.ops.aten.relu.default", "torch.ops.aten.from_file.default", "no operator"),
        ('"relu"', '"relu; import os"', "has a value called"),
        ("Symbol('s", "__import__('os').system('true') + Symbol('s", "arithmetic"),
        ("Symbol('s", "Max('__import__(1)') + Symbol('s", "arithmetic"),
        ('"guards_code": []', '"guards_code": ["torch.os.system(1)"]', "arithmetic"),
        ('"guards_code": []', '"guards_code": ["L[__import__(1)]"]', "arithmetic"),
        (
            '"name": "cat"',
            '"name": "cat", "in_spec": "[1,{\\"context\\":\\"{\\\\\\"__enum__\\\\\\":1}\\"}]"',
            "imports a module",
        ),
    ],
)
def test_program_that_would_run_code_is_refused(
    program: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = edited(program, tmp_path / "evil.pt2", (old, new))
    with pytest.raises(GraphoptError, match=message):
        convert(str(path))


def test_program_with_pickled_weights_is_refused(program: Path, tmp_path: Path) -> None:
    config = json.dumps({"config": {"w": {"path_name": "weight_0", "use_pickle": True}}}).encode()
    path = rewritten(
        program, tmp_path / "evil.pt2", {"data/weights/model_weights_config.json": config}
    )
    with pytest.raises(GraphoptError, match="holds pickled weights"):
        convert(str(path))
    for name in (
        "data/weights/model.pt",
        "data/constants/custom_obj_0",
        "data/constants/opaque_obj_0",
    ):
        path = rewritten(program, tmp_path / "evil.pt2", {name: b"\x80\x02."})
        with pytest.raises(GraphoptError, match="holds a pickled object"):
            convert(str(path))


def test_compiled_code_in_a_program_is_refused(program: Path, tmp_path: Path) -> None:
    path = rewritten(program, tmp_path / "evil.pt2", {"data/aotinductor/model/x.so": b"\x7fELF"})
    with pytest.raises(GraphoptError, match="holds compiled code"):
        convert(str(path))


def test_example_inputs_of_a_program_are_not_unpickled(program: Path, tmp_path: Path) -> None:
    witness, pickled = tmp_path / "witness", tmp_path / "inputs.pt"
    torch.save(((Trap(witness),), {}), pickled)
    path = rewritten(
        program, tmp_path / "evil.pt2", {"data/sample_inputs/model.pt": pickled.read_bytes()}
    )
    with pytest.raises(GraphoptError, match="cannot read it"):
        convert(str(path))
    assert not witness.exists()


@pytest.mark.parametrize("size", [0, 3, 100, 2000])
def test_truncated_program_is_one_clear_line(program: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "short.pt2"
    path.write_bytes(program.read_bytes()[:size])
    with pytest.raises(GraphoptError, match=r"short\.pt2") as error:
        convert(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.pt2", "no such file"),
        ("networks:absent", "networks has no absent"),
        ("nowhere:mlp", "cannot be imported"),
        ("networks:number", "returns int; return a torch.nn.Module"),
        ("networks:broken", "fails: ValueError: no weights here"),
    ],
)
def test_bad_sources(source: str, message: str) -> None:
    with pytest.raises(GraphoptError, match=message):
        convert(source)


def test_files_of_no_framework(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(GraphoptError, match="is of no framework that graphopt knows"):
        convert(str(text))
    with pytest.raises(GraphoptError, match="is no PyTorch program"):
        convert(str(text), framework="torch")
    with pytest.raises(
        GraphoptError, match="no framework is called 'caffe'; choose from tensorflow"
    ):
        convert(str(text), framework="caffe")
    with pytest.raises(GraphoptError, match="is a folder that holds no SavedModel; give"):
        convert(str(tmp_path))


def test_absent_torch_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GraphoptError, match=r'pip install "graphopt\[torch\]"'):
        convert("networks:mlp")
