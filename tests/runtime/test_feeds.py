from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from graphopt.errors import GraphoptError
from graphopt.runtime.feeds import Feeds, open_feeds
from graphopt.runtime.session import Session

IMAGE = """<ir_version: 10, opset_import: ["": 20]>
g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"""
STATE = """<ir_version: 10, opset_import: ["": 20]>
g (float[B,3] x, float[2,B,3] state, int64 rate) => (float[2,B,3] y, int64 r) {
  y = Add(state, x)
  r = Identity(rate)
}"""
FIXED = """<ir_version: 10, opset_import: ["": 20]>
g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }"""
STATIC_STATE = """<ir_version: 10, opset_import: ["": 20]>
g (float[1,3] x, float[2,1,3] state) => (float[2,1,3] y) { y = Add(state, x) }"""
DEFAULT = """<ir_version: 10, opset_import: ["": 20]>
g (float[N,3] x, float[3] scale) => (float[N,3] y) <float[3] scale = {1, 2, 3}> {
  y = Mul(x, scale)
}"""


def model(text: str) -> ir.Model:
    return ir.from_onnx_text(text)


def numbers(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_batches_cover_all_samples_in_order_and_again() -> None:
    feeds = Feeds({"x": numbers(10, 3)}).for_model(model(IMAGE))
    for _ in range(2):
        batches = [batch["x"] for batch in feeds.batches(4)]
        assert [len(batch) for batch in batches] == [4, 4, 2]
        np.testing.assert_array_equal(np.concatenate(batches), numbers(10, 3))
    assert feeds.count == 10


def test_take_limits_samples_and_labels() -> None:
    feeds = Feeds({"x": numbers(10, 3)}, labels=np.arange(10)).take(5).for_model(model(IMAGE))
    assert feeds.count == 5
    assert feeds.labels is not None
    assert feeds.labels.tolist() == [0, 1, 2, 3, 4]
    assert [len(batch["x"]) for batch in feeds.batches(4)] == [4, 1]


def test_a_folder_streams_its_files_and_joins_batches_across_them(tmp_path: Path) -> None:
    for name, start in (("b", 3), ("a", 0)):
        x = numbers(6, 3)[start : start + 3]
        np.savez(tmp_path / f"{name}.npz", x=x, labels=np.arange(start, start + 3))
    feeds = open_feeds(str(tmp_path)).for_model(model(IMAGE))
    assert feeds.count == 6
    assert feeds.labels is not None
    assert feeds.labels.tolist() == [0, 1, 2, 3, 4, 5]
    batches = [batch["x"] for batch in feeds.batches(4)]
    assert [len(batch) for batch in batches] == [4, 2]
    np.testing.assert_array_equal(np.concatenate(batches), numbers(6, 3))
    assert [len(batch["x"]) for batch in feeds.take(4).batches(3)] == [3, 1]


def test_parts_of_other_lengths_are_not_joined(tmp_path: Path) -> None:
    text = IMAGE.replace("float[N,3]", "float[N,T]")
    for length in (2, 5):
        np.savez(tmp_path / f"{length}.npz", x=numbers(3, length))
    feeds = open_feeds(str(tmp_path)).for_model(model(text))
    assert [batch["x"].shape for batch in feeds.batches(4)] == [(3, 2), (3, 5)]


def test_a_function_is_found_from_the_working_directory_and_called_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_feeds.py").write_text(
        "import numpy as np\n"
        "def samples():\n"
        "    for start in (0, 2):\n"
        "        x = np.arange(start, start + 2, dtype=np.float32)\n"
        "        yield {'x': np.stack([x] * 3, 1), 'labels': [start, start + 1]}\n"
        "def broken():\n"
        "    yield {'x': np.zeros((1, 3), np.float32)}\n"
        "    raise RuntimeError('boom')\n"
        "def objects():\n"
        "    yield {'x': [object()]}\n"
        "def other():\n"
        "    return [1]\n"
        "def nothing():\n"
        "    return []\n"
    )
    monkeypatch.chdir(tmp_path)
    feeds = open_feeds("own_feeds:samples").for_model(model(IMAGE))
    for _ in range(2):
        assert [batch["x"][:, 0].tolist() for batch in feeds.batches(3)] == [[0, 1, 2], [3]]
    assert feeds.labels is not None
    assert feeds.labels.tolist() == [0, 1, 2, 3]
    for name, cause in {
        "broken": "RuntimeError: boom",
        "objects": "Python objects",
        "other": "yields int",
        "nothing": "yields no data",
        "absent": "own_feeds has no absent",
    }.items():
        with pytest.raises(GraphoptError, match=cause):
            open_feeds(f"own_feeds:{name}")


@pytest.mark.parametrize(
    ("arrays", "cause"),
    [
        ({"z": numbers(2, 3)}, "input 'x' is missing"),
        ({"x": numbers(2, 3), "z": numbers(2, 3)}, "array 'z' is no input"),
        ({"x": numbers(2, 3).astype(np.float64)}, "dtype float64, the model wants float"),
        ({"x": numbers(2, 3).astype(np.uint8)}, "dtype uint8"),
        ({"x": np.array([["a", "b", "c"]])}, "dtype <U1"),
        ({"x": numbers(2)}, r"rank 1 \(shape \[2\]\), the model wants rank 2"),
        ({"x": numbers(2, 4)}, "size 4 at axis 1"),
        ({"x": numbers(0, 3)}, "no samples"),
        ({"x": np.full((2, 3), np.nan, np.float32)}, "not finite"),
        ({"x": np.full((2, 3), -np.inf, np.float32)}, "not finite"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(arrays: dict[str, np.ndarray], cause: str) -> None:
    with pytest.raises(GraphoptError, match=cause) as refused:
        Feeds(arrays, source="some.npz").for_model(model(IMAGE))
    assert str(refused.value).startswith("some.npz: ")
    assert "\n" not in str(refused.value)


def test_samples_and_labels_must_be_as_many() -> None:
    arrays = {"x": numbers(4, 3), "state": numbers(2, 3, 3), "rate": np.int64(1)}
    with pytest.raises(GraphoptError, match="'x' has 4 samples, but 'state' has 3"):
        Feeds({k: np.asarray(v) for k, v in arrays.items()}).for_model(model(STATE))
    with pytest.raises(GraphoptError, match="4 samples have 3 labels"):
        Feeds({"x": numbers(4, 3)}, labels=np.arange(3)).for_model(model(IMAGE))


def test_harmless_casts_are_made() -> None:
    feeds = Feeds({"x": numbers(2, 3).astype(np.float16)}).for_model(model(IMAGE))
    (batch,) = feeds.batches()
    assert batch["x"].dtype == np.float32


def test_bfloat16_from_npz_is_recognized(tmp_path: Path) -> None:
    values = numbers(2, 3).astype(ml_dtypes.bfloat16)
    np.savez(tmp_path / "a.npz", x=values)
    own = model(IMAGE.replace("float[", "bfloat16["))
    (batch,) = open_feeds(str(tmp_path / "a.npz")).for_model(own).batches()
    np.testing.assert_array_equal(batch["x"], values)


def test_the_sample_axis_is_found_by_the_batch_symbol_and_scalars_are_shared() -> None:
    own = model(STATE)
    arrays = {"x": numbers(5, 3), "state": numbers(2, 5, 3), "rate": np.asarray(16000)}
    feeds = Feeds(arrays).for_model(own)
    assert feeds.count == 5
    session = Session(own)
    outputs = [session.run(batch)["y"] for batch in feeds.batches(2)]
    assert [output.shape for output in outputs] == [(2, 2, 3), (2, 2, 3), (2, 1, 3)]
    np.testing.assert_array_equal(np.concatenate(outputs, 1), arrays["state"] + arrays["x"])


def test_a_fixed_batch_sizes_the_runs() -> None:
    own = model(FIXED)
    feeds = Feeds({"x": numbers(6, 3)}).for_model(own)
    assert [batch["x"].shape for batch in feeds.batches(32)] == [(2, 3)] * 3
    with pytest.raises(GraphoptError, match="do not fill runs of 2"):
        Feeds({"x": numbers(5, 3)}).for_model(own)


def test_constants_and_stacks_of_whole_inputs() -> None:
    own = model(STATIC_STATE)
    shared = Feeds({"x": numbers(4, 3), "state": numbers(2, 1, 3)}).for_model(own)
    assert [batch["state"].shape for batch in shared.batches()] == [(2, 1, 3)] * 4
    stacked = Feeds({"x": numbers(4, 1, 3), "state": numbers(4, 2, 1, 3)}).for_model(own)
    batches = list(stacked.batches())
    assert [batch["x"].shape for batch in batches] == [(1, 3)] * 4
    np.testing.assert_array_equal(batches[1]["state"], numbers(4, 2, 1, 3)[1])


def test_inputs_with_a_default_may_be_left_out_or_given() -> None:
    own = model(DEFAULT)
    (batch,) = Feeds({"x": numbers(2, 3)}).for_model(own).batches()
    np.testing.assert_array_equal(Session(own).run(batch)["y"], numbers(2, 3) * [1, 2, 3])


def test_an_input_called_labels_is_fed() -> None:
    own = model(IMAGE.replace("x)", "labels)").replace("Relu(x", "Relu(labels"))
    feeds = Feeds({}, labels=numbers(2, 3)).for_model(own)
    assert next(feeds.batches())["labels"].shape == (2, 3)


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_needs_a_sample(size: int) -> None:
    with pytest.raises(GraphoptError, match="batch size"):
        next(Feeds({"x": numbers(2, 3)}).batches(size))


def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "one.npy", numbers(2))
    np.savez(tmp_path / "labels.npz", labels=numbers(2))
    for name, cause in {
        "absent.npz": "no such file",
        "empty": "no .npz file",
        "one.npy": "without a name",
        "labels.npz": "no inputs",
    }.items():
        with pytest.raises(GraphoptError, match=cause):
            open_feeds(str(tmp_path / name))


@pytest.mark.parametrize("after", ["float16", "bfloat16", "double"])
def test_samples_follow_an_input_to_another_float_type(after: str) -> None:
    own, new = model(IMAGE), model(IMAGE.replace("float[", f"{after}["))
    given = Feeds({"x": numbers(10, 3)}, labels=np.arange(10))
    strict = given.for_model(own)
    feeds = strict.following(own, new)
    batches = [batch["x"] for batch in feeds.for_model(new).batches(4)]
    wanted = ir.DataType["DOUBLE" if after == "double" else after.upper()].numpy()
    assert [batch.dtype for batch in batches] == [wanted] * 3
    np.testing.assert_array_equal(np.concatenate(batches).astype(np.float32), numbers(10, 3))
    # Of these types, ONNX Runtime has a kernel on the CPU for each.
    cast = f"""<ir_version: 10, opset_import: ["": 20]>
g ({after}[N,3] x) => (float[N,3] y) {{ y = Cast<to = 1>(x) }}"""
    np.testing.assert_array_equal(
        Session(model(cast)).run({"x": batches[0]})["y"], numbers(10, 3)[:4]
    )
    # Both models are fed by them, and the user's own data is held to its type.
    assert next(feeds.for_model(own).batches(4))["x"].dtype == np.float32
    assert feeds.following(new, own) is feeds
    assert strict.following(own, own) is strict
    if after != "double":
        with pytest.raises(GraphoptError, match=f"has dtype float32, the model wants {after}"):
            strict.for_model(new)


def test_bfloat16_from_npz_follows_by_value(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=numbers(2, 3).astype(ml_dtypes.bfloat16))
    own = model(IMAGE.replace("float[", "bfloat16["))
    feeds = open_feeds(str(tmp_path / "a.npz")).for_model(own)
    for after in ("float16", "float"):
        new = model(IMAGE.replace("float[", f"{after}["))
        followed = feeds.following(own, new)
        (batch,) = followed.for_model(new).batches()
        assert batch["x"].dtype == {"float16": np.float16, "float": np.float32}[after]
        np.testing.assert_array_equal(batch["x"], numbers(2, 3))
        written = followed.converted(followed.arrays, new)
        np.testing.assert_array_equal(written["x"], batch["x"])


def test_parts_follow_one_by_one(tmp_path: Path) -> None:
    for name in "ab":
        np.savez(tmp_path / f"{name}.npz", x=numbers(3, 3))
    own, new = model(IMAGE), model(IMAGE.replace("float[", "float16["))
    feeds = open_feeds(str(tmp_path)).for_model(own).following(own, new).for_model(new)
    batches = [batch["x"] for batch in feeds.batches(4)]
    assert [len(batch) for batch in batches] == [4, 2]
    assert all(batch.dtype == np.float16 for batch in batches)


def test_samples_beyond_the_new_type_are_refused() -> None:
    own, new = model(IMAGE), model(IMAGE.replace("float[", "float16["))
    feeds = Feeds({"x": numbers(2, 3) + 65530}).for_model(own).following(own, new)
    with pytest.raises(GraphoptError, match=r"'x' holds values that float16, .*cannot hold"):
        feeds.for_model(new)
    whole, other = model(IMAGE.replace("float[N", "int64[N")), model(IMAGE)
    assert feeds.following(whole, other) is feeds


def test_arrays_are_left_out_by_name_of_all_parts(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for number in range(2):
        np.savez(tmp_path / f"{number}.npz", x=x + number, other=x, labels=np.arange(2))
    feeds = open_feeds(str(tmp_path))
    with pytest.raises(GraphoptError, match="'other' is no input"):
        feeds.for_model(ir.from_onnx_text(IMAGE))
    left = feeds.without({"other", "absent"}).for_model(ir.from_onnx_text(IMAGE))
    (batch,) = left.batches(4)
    np.testing.assert_array_equal(batch["x"], np.concatenate([x, x + 1]))
    assert batch.keys() == {"x"}
    assert left.labels is not None
    assert left.count == 4
    assert feeds.without({"absent"}) is feeds


def test_a_function_yields_the_same_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "repeated_samples.py").write_text(
        "import numpy as np\n"
        "random = np.random.default_rng(0)\n"
        "def parts(rng):\n"
        "    for _ in range(2):\n"
        "        x = rng.standard_normal((4, 3)).astype('f4')\n"
        "        yield {'x': x, 'labels': np.array(['b', 'a', 'c', 'd'], object)}\n"
        "def seeded(): return parts(np.random.default_rng(1))\n"
        "def drawn(): return parts(random)\n"
    )
    monkeypatch.chdir(tmp_path)
    seeded = open_feeds("repeated_samples:seeded").for_model(model(IMAGE))
    assert [len(batch["x"]) for batch in seeded.batches(3)] == [3, 3, 2]
    with pytest.raises(GraphoptError, match="part 1 holds other samples than when it was"):
        open_feeds("repeated_samples:drawn").for_model(model(IMAGE))


def test_a_function_without_end_is_asked_for_no_more_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "endless_samples.py").write_text(
        "import itertools\n"
        "import numpy as np\n"
        "def parts():\n"
        "    for n in itertools.count():\n"
        "        print('part', n)\n"
        "        yield {'x': np.full((2, 3), n, 'f4')}\n"
    )
    monkeypatch.chdir(tmp_path)
    feeds = open_feeds("endless_samples:parts", limit=5).for_model(model(IMAGE))
    assert feeds.count == 5
    assert [batch["x"][:, 0].tolist() for batch in feeds.batches(4)] == [[0, 0, 1, 1], [2]]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "part 4" in captured.err
