from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import GraphoptError
from passes.quantize.plan.forms import Form
from passes.quantize.plan.plan_file import read_plan, write_plan

FORMS = {"conv 1": Form.STATIC, "If_3/then_branch/conv": Form.FOLDED, "head": Form.FLOAT}


def test_gives_back_what_was_written(tmp_path):
    path = tmp_path / "plan.toml"
    write_plan(path, FORMS, {"conv 1": "1x1 Conv, 31.2 dB"})
    assert read_plan(path, FORMS) == FORMS
    assert '"conv 1" = "static"  # 1x1 Conv, 31.2 dB' in path.read_text()
    assert tomllib.loads(path.read_text())["version"] == 1


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(Form)))
def test_any_name_survives(tmp_path_factory, forms):
    path = tmp_path_factory.mktemp("plan") / "plan.toml"
    write_plan(path, forms, {at: f"note on {at}" for at in forms})
    assert read_plan(path, forms) == forms


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('version = 1\n[layers]\n"conv 2" = "static"', "has no layer 'conv 2'.*'conv 1'"),
        ('version = 1\n[layers]\nhead = "statik"', "cannot be 'statik'.*use static, dynamic"),
        ("version = 1\n[layers]\nhead = 3", "cannot be 3"),
        ("version = 2", "version 2, not 1"),
        ("version = 1\nlayer = 2", "unknown entry 'layer'"),
        ("version = 1\nlayers = 2", r"has no table of layers; put \[layers\]"),
        ('version = 1\nhead = "static"', "unknown entry"),
        ("version = 1", "has no table of layers"),
        ("version =", "is no TOML"),
        ("\udcff", "is no TOML"),
    ],
)
def test_says_in_one_line_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "plan.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(GraphoptError, match=message) as raised:
        read_plan(path, FORMS)
    assert "plan.toml" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(GraphoptError, match="cannot be read"):
        read_plan(tmp_path / "none.toml", FORMS)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "plan.toml"
    write_plan(path, FORMS, {})
    before = path.read_bytes()
    with pytest.raises(GraphoptError):
        write_plan(tmp_path / "absent" / "plan.toml", FORMS, {})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["plan.toml"]
