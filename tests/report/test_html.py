from __future__ import annotations

import re
import shutil
import subprocess
import zlib
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import onnx_ir as ir
import pytest

from graphopt.errors import GraphoptError
from graphopt.model.facts import measure
from graphopt.pipeline.result import Note, RunResult, StepRecord, Timing
from graphopt.report.histogram import Histogram
from graphopt.report.html import page, write_html
from graphopt.report.markup import Html, element
from graphopt.runtime.compare import OutputError

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is on the PATH")
HOSTILE = (
    '</title></style><script>document.documentElement.id="pwned"</script>"'
    "'><img src=x:y onerror=document.documentElement.id='pwned'>"
)


def model() -> ir.Model:
    return ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 20]> g (float[N,4] x) => (y)
        <float[4,2] w = {1, 0, 0, 1, 1, 1, 1, 1}> { y = MatMul(x, w) }"""
    )


def note(name: str, **details: float) -> Note:
    return Note(name, "small & <few>", {"weight": name, **details})


def step(text: str, rewrites: tuple[Note, ...], declined: tuple[Note, ...] = ()) -> StepRecord:
    facts = measure(model())
    return StepRecord(
        pass_text=text,
        name="threshold",
        effect="lossy",
        rewrites=rewrites,
        declined=declined,
        timing=Timing(text, 0.25, (Timing("decide", 0.1),)),
        before=facts,
        after=replace(facts, nodes=7, sparsity=0.625),
        errors=(
            OutputError(
                name="logits",
                max_abs=0.125,
                max_rel=0.5,
                rms=0.01,
                cosine=1e-4,
                sqnr_db=31.4159,
                argmax_agreement=0.98,
                finite=True,
                equal=False,
            ),
        ),
    )


def result(*steps: StepRecord) -> RunResult:
    return RunResult(model(), model(), steps, Timing("run", 0.5, (Timing("save", 0.1),)), seed=7)


def histogram(weight: str, text: str, size: int = 1000) -> Histogram:
    before = tuple(max(0, 40 - abs(index - 40)) for index in range(81))
    after = tuple(0 if abs(index - 40) < 10 else n for index, n in enumerate(before))
    return Histogram(weight, text, (size,), 1.0, before, after, 3, size // 2, 0.25)


TEXT = "threshold(sparsity=0.5)"
RUN = result(
    step(
        TEXT,
        (note("conv.weight", threshold=0.25, sparsity=0.5, elements=1000),),
        (Note("bias", "it is a bias"),),
    )
)
HISTOGRAMS = (histogram("conv.weight", TEXT),)


class Elements(HTMLParser):
    """Every tag with its attributes; fails where tags do not nest."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.found)


def test_what_a_reader_looks_for_is_there() -> None:
    elements = Elements(page(RUN, model="net.onnx", histograms=HISTOGRAMS, details={"date": "May"}))
    text = " ".join(elements.text)
    for expected in (
        "net.onnx",
        TEXT,
        "0.125",
        "31.4 dB",
        "98.0 %",
        "250 ms",
        "conv.weight",
        "62.5 %",
        "differs",
        "it is a bias",
        "small & <few>",
        "May",
        "onnxruntime",
        "before 1",
    ):
        assert expected in text
    assert elements.count("svg") == 1
    assert elements.count("h1") == 1


def test_it_is_accessible() -> None:
    elements = Elements(page(RUN, histograms=HISTOGRAMS))
    assert ("html", {"lang": "en"}) in elements.found
    assert elements.count("table") == elements.count("caption") > 3
    for tag, attributes in elements.found:
        if tag == "svg":
            assert attributes["role"] == "img"
            assert "conv.weight" in (attributes["aria-label"] or "")
        if tag == "th":
            assert attributes["scope"] in {"col", "row"}
        if attributes.get("class") == "wide":
            assert attributes["tabindex"] == "0"
            assert attributes["aria-label"]


def test_it_loads_nothing() -> None:
    source = page(RUN, histograms=HISTOGRAMS)
    elements = Elements(source)
    loading = {"src", "href", "srcset", "action", "data", "poster", "background", "xlink:href"}
    for tag, attributes in elements.found:
        assert tag not in {"script", "link", "iframe", "img", "object", "embed", "base", "form"}
        assert not loading & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"https?:|//[a-z]|@import|url\(", source)
    policy = [a["content"] for t, a in elements.found if a.get("http-equiv")]
    assert policy
    assert (policy[0] or "").startswith("default-src 'none'")


def hostile_page() -> str:
    noted = Note(HOSTILE, HOSTILE, {"weight": HOSTILE, "threshold": 0.25})
    made = step(HOSTILE, (noted,), (noted,))
    error = replace(made.errors[0], name=HOSTILE)
    made = replace(
        made,
        errors=(error,),
        measures={HOSTILE: 1.0},
        rolled_back=HOSTILE,
        timing=Timing(HOSTILE, 1.0),
    )
    run = result(made, replace(made, rolled_back=None))
    run.model.metadata_props[f"graphopt.{HOSTILE}"] = HOSTILE
    return page(
        run,
        model=HOSTILE,
        histograms=(histogram(HOSTILE, HOSTILE),),
        details={HOSTILE: HOSTILE},
    )


def test_hostile_names_stay_text() -> None:
    elements = Elements(hostile_page())
    assert elements.count("script") == elements.count("img") == 0
    for _, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on")]
    assert "".join(elements.text).count(HOSTILE) > 10


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_html(RUN, tmp_path / name, histograms=HISTOGRAMS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_run_without_passes_has_a_report() -> None:
    assert "no pass ran" in page(result())


def test_a_rolled_back_pass_says_so() -> None:
    undone = replace(RUN.steps[0], rolled_back="accuracy fell", measures={"accuracy": 0.5})
    shown = page(replace(RUN, steps=(undone,)))
    assert "(rolled back)" in shown
    assert "rolled back: accuracy fell" in shown
    assert "accuracy 0.5" in shown
    # Its weights are as they were.
    assert "edited weight" not in shown


def test_a_run_that_nobody_measured_has_a_report() -> None:
    bare = replace(RUN.steps[0], before=None, after=None, errors=())
    text = page(replace(RUN, steps=(bare,)))
    assert "Before and after" not in text
    assert "Output errors" not in text
    assert TEXT in text


def test_histograms_stand_under_their_passes_in_order() -> None:
    other = "threshold(sparsity=0.9)"
    run = result(step(TEXT, (note("a"), note("b"))), step(other, (note("a"), note("b"))))
    drawn = [
        histogram(name, text, size)
        for text, sizes in ((TEXT, {"a": 5, "b": 2}), (other, {"a": 50, "b": 20}))
        for name, size in sizes.items()
    ]
    source = page(run, histograms=drawn)
    first, second = (source.index(f"<h3><code>{text}</code></h3>") for text in (TEXT, other))
    labels = [found.start() for found in re.finditer("Histogram of", source)]
    assert [first < at < second for at in labels] == [True, True, False, False]


def test_many_layers_stay_small() -> None:
    names = [f"layer{index}.weight" for index in range(2000)]
    run = result(
        step(TEXT, tuple(note(name, threshold=0.25, sparsity=0.5, elements=9) for name in names))
    )
    drawn = tuple(histogram(name, TEXT, index) for index, name in enumerate(names))
    source = page(run, histograms=drawn)
    elements = Elements(source)
    assert len(source) < 1 << 20
    assert elements.count("svg") == 24
    # The largest are drawn, and the rest are counted.
    labels = " ".join(a["aria-label"] or "" for t, a in elements.found if t == "svg")
    assert "layer1999.weight" in labels
    assert "layer0.weight" not in labels
    assert "and 1,500 more" in source


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(GraphoptError, match="its folder does not exist"):
        write_html(RUN, tmp_path / "nowhere" / "r.html")


def chromium(page_file: Path, profile: Path, *options: str) -> str:
    assert CHROMIUM is not None
    completed = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--hide-scrollbars", f"--user-data-dir={profile}", *options,
            page_file.as_uri(),
        ],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return completed.stdout


def without_policy(source: str, script: str) -> str:
    """Let scripts run: escaping must hold by itself."""
    opened = re.sub(r"<meta http-equiv=[^>]*>", "", source)
    assert opened != source
    return opened.replace("</body>", f"<script>{script}</script></body>")


@needs_chromium
def test_chromium_shows_it(tmp_path: Path) -> None:
    file = tmp_path / "r.html"
    write_html(RUN, file, model="net.onnx", histograms=HISTOGRAMS)
    picture = tmp_path / "r.png"
    chromium(file, tmp_path / "p", "--window-size=1280,1600", f"--screenshot={picture}")
    assert len(shades(picture)) > 40
    document = chromium(file, tmp_path / "p", "--dump-dom")
    assert "<h1>net.onnx</h1>" in document


MEASURE = """
  addEventListener("load", () => {
    const inner = document.querySelector("iframe").contentWindow;
    const kept = inner.document.querySelector("svg .kept");
    const page = inner.document.documentElement;
    document.title = [
      "measured", inner.innerWidth, page.scrollWidth, kept.getBBox().width > 100,
      kept.getBBox().height > 10, inner.getComputedStyle(kept).fill].join(" ");
  });"""


@needs_chromium
@pytest.mark.parametrize("width", [400, 1280])
def test_chromium_lays_it_out_within_the_window(tmp_path: Path, width: int) -> None:
    long = histogram("a.very.long." * 30, TEXT)
    source = page(RUN, model="m" * 300, histograms=(*HISTOGRAMS, long))
    # A headless window is at least 500 pixels wide; a frame may be narrower.
    frame = element("iframe", width=width, height=900, frameborder=0, srcdoc=Html(escape(source)))
    file = tmp_path / "r.html"
    file.write_text(f"<!DOCTYPE html><script>{MEASURE}</script>{frame}")
    document = chromium(file, tmp_path / "p", "--dump-dom", "--window-size=1400,1000")
    assert f"measured {width} {width} true true rgb(31, 111, 178)" in document


@needs_chromium
def test_chromium_runs_no_hostile_name(tmp_path: Path) -> None:
    file = tmp_path / "r.html"
    file.write_text(without_policy(hostile_page(), 'document.body.className = "scripts-run"'))
    document = chromium(file, tmp_path / "p", "--dump-dom", "--virtual-time-budget=2000")
    assert 'class="scripts-run"' in document
    assert not re.search(r"<html[^>]*pwned", document)


def shades(picture: Path) -> set[int]:
    """Return the bytes that a PNG's filtered lines are made of; a blank page has a handful."""
    content = picture.read_bytes()
    position, data = 8, b""
    while position < len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        if content[position + 4 : position + 8] == b"IDAT":
            data += content[position + 8 : position + 8 + length]
        position += 12 + length
    return set(zlib.decompress(data))
