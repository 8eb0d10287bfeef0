from __future__ import annotations

import onnx_ir as ir
import pytest

from graphopt.model.source_paths import source_path, source_paths


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('File "/home/ann/net/model.py", line 3, in forward', "/home/ann/net/model.py"),
        ("/Users/ann/net", "/Users/ann/net"),
        ("trace: /srv/x/y.txt", "/srv/x/y.txt"),
        ("at /q/r/s.py(12)", "/q/r/s.py"),
        (r"at C:\Users\ann\net.py:3", r"C:\Users\ann\net.py"),
        ("at d:/build/net/a.cpp", "d:/build/net/a.cpp"),
        (r"\\host\share\net.py", r"\\host\share\net.py"),
        ("['/opt/site-packages/torch/nn.py']", "/opt/site-packages/torch/nn.py"),
    ],
)
def test_absolute_paths(text: str, path: str) -> None:
    assert source_path(text) == path


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "see https://example.org/home/page.html and http://a.b/c/d.py",
        "/model/layer1/conv/Conv_output_0",
        "ratio 3/4/5, and/or, src/net/model.py",
        "/relu",
        "aten.conv2d.default: 16:9",
    ],
)
def test_what_is_no_path(text: str | None) -> None:
    assert source_path(text) is None


@pytest.mark.parametrize("unit", ["/a", "/%", "/=", "/a(", "/a.x", "\\\\", "C:\\a", "//"])
def test_a_path_behind_a_hostile_text_is_found(unit: str) -> None:
    # With backtracking over the whole text, each of these takes minutes.
    text = (unit * (1 << 15))[:65_000]
    assert source_path(f"{text} /home/ann") == "/home/ann"


def test_a_model_is_searched_everywhere() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 20, "lab": 1]>
        g (float[N] x, bool c) => (z) {
          y = If(c)<then_branch = t () => (a) { a = Relu(x) },
                    else_branch = e () => (b) { b = lab.f(x) }>
          z = Relu(y)
        }
        <domain: "lab", opset_import: ["": 20]> f (p) => (r) { r = Relu(p) }"""
    )
    assert source_paths(model) == (0, None)
    branch = model.graph.node(0).attributes["then_branch"].as_graph()
    branch.node(0).metadata_props["trace"] = 'File "/home/a/b.py"'
    function = next(iter(model.functions.values()))
    function.graph.node(0).doc_string = "/home/a/c.py"
    model.graph.outputs[0].doc_string = "/home/a/d.py"
    model.metadata_props["where"] = "/home/a/e.py"
    assert source_paths(model) == (4, "/home/a/e.py")
