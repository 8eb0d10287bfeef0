from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from toys import DropIdentity, registry
from wheels import install, wheel

from graphopt.errors import GraphoptError
from graphopt.pipeline.contract import Effect
from graphopt.pipeline.registry import PassEntry, Registry, summary
from graphopt.pipeline.syntax import parse, unparse


def test_an_installed_third_party_pass_is_found_and_used_in_text(toys: Path) -> None:
    found = Registry.installed()
    assert "drop_identity" in list(found)
    assert found.entry("scale").distribution == "toy-passes 1.2"
    assert found.load("scale").effect is Effect.LOSSY
    passes = parse("drop_identity | scale(factor=0.5)")
    assert type(passes[0]).__module__ == "toy_passes"
    assert unparse(passes) == "drop_identity | scale(factor=0.5)"


def test_a_fresh_process_finds_it_too(toy_site: Path) -> None:
    script = "import graphopt; print(graphopt.unparse(graphopt.parse('scale(factor=2)')))"
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(toy_site), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "scale(factor=2.0)\n"


def test_the_built_in_passes_are_found_by_the_same_door() -> None:
    found = Registry.installed()
    assert {"cleanup", "strip", "threshold"} <= set(found)
    assert found.entry("cleanup").distribution.startswith("graphopt ")


BROKEN = {
    "raises": ("raise OSError('no disk')", "X", "OSError: no disk"),
    "leaves": ("raise SystemExit(3)", "X", "SystemExit: 3"),
    "lacks": ("", "X", "AttributeError"),
    "no_class": ("X = 3", "X", "not a subclass of graphopt.Pass"),
    "no_dataclass": (
        "from graphopt import Pass\nclass X(Pass):\n  def rewrites(self, m, c): yield",
        "X",
        "not a dataclass",
    ),
    "no_effect": (
        "from graphopt import Pass\nfrom dataclasses import dataclass\n@dataclass(frozen=True)\n"
        "class X(Pass):\n  name = 'no_effect'\n  def rewrites(self, m, c): yield",
        "X",
        "has no effect",
    ),
    "other_name": (
        "from graphopt import Pass, Effect\nfrom dataclasses import dataclass\n"
        "@dataclass(frozen=True)\nclass X(Pass):\n  name = 'this'\n  effect = Effect.EXACT\n"
        "  def rewrites(self, m, c): yield",
        "X",
        "calls itself 'this'",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_pass_is_named_when_used_and_breaks_no_other(
    kind: str, toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, attribute, said = BROKEN[kind]
    points = f"[graphopt.passes]\n{kind} = broken_{kind}:{attribute}\n"
    package = wheel(tmp_path, f"broken-{kind}", {f"broken_{kind}.py": source}, points)
    monkeypatch.syspath_prepend(str(install(package, tmp_path / "site")))
    found = Registry.installed()
    assert kind in list(found)
    with pytest.raises(GraphoptError) as caught:
        found.load(kind)
    assert said in str(caught.value)
    assert f"pass {kind!r} (broken_{kind}:X of broken-{kind} 1.2) does not load" in str(
        caught.value
    )
    assert parse("scale", found) == (found.load("scale")(),)


def test_two_offers_of_one_name_are_refused_when_used() -> None:
    found = Registry(
        [
            PassEntry("twin", "one:Twin", "first 1.0"),
            PassEntry("twin", "two:Twin", "second 2.0"),
            PassEntry("drop_identity", "toys:DropIdentity", "third 3.0"),
        ]
    )
    with pytest.raises(GraphoptError) as caught:
        found.load("twin")
    said = str(caught.value)
    assert "offered twice, by first 1.0 (one:Twin) and second 2.0 (two:Twin)" in said
    assert found.load("drop_identity") is DropIdentity


def test_one_offer_that_is_found_twice_is_one() -> None:
    entry = PassEntry("drop_identity", "toys:DropIdentity", "third 3.0")
    assert Registry([entry, entry]).load("drop_identity") is DropIdentity


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(GraphoptError, match="did you mean 'drop_identity'"):
        registry().load("dropidentity")


def test_the_summary_is_the_first_line_and_never_a_generated_signature() -> None:
    assert summary(DropIdentity) == "Remove Identity nodes."
    bare = type("Bare", (DropIdentity,), {"__doc__": "Bare(name: str = 'x')"})
    assert summary(bare) == ""
