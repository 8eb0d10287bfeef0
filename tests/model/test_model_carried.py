"""What onnx-ir cannot hold survives, also in clones, or is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from graphopt.errors import GraphoptError
from graphopt.model import Limits, load, save, to_proto
from graphopt.model.lossless import differences
from graphopt.model.tensors import SparseTensor

OPSETS = [helper.make_opsetid("", 18)]
X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
MAP = onnx.TypeProto()
MAP.sequence_type.elem_type.map_type.key_type = TensorProto.INT64
MAP.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type = TensorProto.FLOAT


def model_of(graph: onnx.GraphProto, **parts: object) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=10, **parts)


def identity(**parts: object) -> onnx.GraphProto:
    return helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"], name="node")], "graph", [X], [Y], **parts
    )


def loaded(proto: onnx.ModelProto, folder: Path) -> ir.Model:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return load(path)


def assert_kept(proto: onnx.ModelProto, folder: Path) -> ir.Model:
    """The model survives a load and a save, a clone of it does too, and the bytes are stable."""
    model = loaded(proto, folder)
    for kept in (model, model.clone()):
        save(kept, folder / "kept.onnx")
        after = onnx.load(folder / "kept.onnx")
        assert list(differences(proto, after)) == []
        assert list(differences(proto, to_proto(kept))) == []
    first = (folder / "kept.onnx").read_bytes()
    save(load(folder / "kept.onnx"), folder / "kept.onnx")
    assert (folder / "kept.onnx").read_bytes() == first
    return model


def sparse(name: str, dims: tuple[int, ...], indices: list[object]) -> onnx.SparseTensorProto:
    values = np.arange(1, len(indices) + 1, dtype=np.float32)
    return onnx.SparseTensorProto(
        values=numpy_helper.from_array(values, name),
        indices=numpy_helper.from_array(np.array(indices, np.int64)),
        dims=dims,
    )


def test_map_types_of_values(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])],
        "graph",
        [X],
        [helper.make_value_info("y", MAP)],
    )
    proto = model_of(graph)
    proto.opset_import.add(domain="ai.onnx.ml", version=3)
    assert_kept(proto, tmp_path)


def test_types_that_a_pass_sets_win_over_carried_ones(tmp_path: Path) -> None:
    graph = identity()
    graph.output[0].type.CopyFrom(MAP)
    model = loaded(model_of(graph), tmp_path)
    model.graph.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    assert to_proto(model).graph.output[0].type.HasField("tensor_type")


def test_attributes_that_onnx_ir_cannot_hold(tmp_path: Path) -> None:
    body = helper.make_graph([], "body", [], [])
    body.node.add(op_type="Optional", output=["o"]).attribute.add(
        name="type", type=AttributeProto.TYPE_PROTO, tp=MAP
    )
    graph = identity()
    graph.node[0].attribute.extend(
        [
            AttributeProto(name="maps", type=AttributeProto.TYPE_PROTOS, type_protos=[MAP, MAP]),
            AttributeProto(name="bytes", type=AttributeProto.STRINGS, strings=[b"\xff", b"text"]),
            AttributeProto(name="byte", type=AttributeProto.STRING, s=b"\xff\xfe"),
            AttributeProto(
                name="sparse",
                type=AttributeProto.SPARSE_TENSORS,
                sparse_tensors=[sparse("a", (4,), [1, 3]), sparse("b", (2, 2), [[0, 1], [1, 1]])],
                doc_string="documented",
            ),
            AttributeProto(name="body", type=AttributeProto.GRAPH, g=body),
        ]
    )
    assert_kept(model_of(graph), tmp_path)


def test_a_sparse_constant_is_dense_when_it_is_read(tmp_path: Path) -> None:
    graph = identity()
    value = sparse("", (2, 3), [[0, 1], [1, 2]])
    graph.node.insert(0, helper.make_node("Constant", [], ["c"], sparse_value=value))
    model = assert_kept(model_of(graph), tmp_path)
    attribute = model.graph[0].attributes["sparse_value"]
    np.testing.assert_array_equal(attribute.value.numpy(), [[0, 1, 0], [0, 0, 2]])


@pytest.mark.parametrize("indices", [[1, 5], [[0, 1], [1, 2]]])
def test_sparse_initializers_in_both_forms(tmp_path: Path, indices: list[object]) -> None:
    graph = identity(sparse_initializer=[sparse("w", (2, 3), indices)])
    model = assert_kept(model_of(graph), tmp_path)
    np.testing.assert_array_equal(
        model.graph.initializers["w"].const_value.numpy(), [[0, 1, 0], [0, 0, 2]]
    )


@pytest.mark.parametrize(
    ("indices", "cause"),
    [
        ([1, 6], "leave its shape"),
        ([-1, 2], "leave its shape"),
        ([5, 1], "do not ascend"),
        ([1, 1], "do not ascend"),
        ([[0, 1], [1, 3]], "leave its shape"),
        ([[1, 2], [0, 1]], "do not ascend"),
        ([[[1]], [[2]]], "indices of shape"),
    ],
)
def test_sparse_indices_that_do_not_fit(tmp_path: Path, indices: list[object], cause: str) -> None:
    graph = identity(sparse_initializer=[sparse("w", (2, 3), indices)])
    with pytest.raises(GraphoptError, match=cause):
        loaded(model_of(graph), tmp_path)


def test_a_sparse_tensor_of_a_huge_dense_shape(tmp_path: Path) -> None:
    graph = identity(sparse_initializer=[sparse("w", (1 << 31, 1 << 31), [5])])
    with pytest.raises(GraphoptError, match="--max-bytes"):
        loaded(model_of(graph), tmp_path)
    graph = identity(sparse_initializer=[sparse("w", (1 << 10,), [5])])
    path = tmp_path / "model.onnx"
    path.write_bytes(model_of(graph).SerializeToString())
    load(path, Limits(max_bytes=1 << 12))
    with pytest.raises(GraphoptError, match="--max-bytes"):
        load(path, Limits(max_bytes=(1 << 12) - 1))


def training(graph: onnx.GraphProto) -> onnx.ModelProto:
    algorithm = helper.make_graph(
        [helper.make_node("Sub", ["w", "step"], ["w_new"])],
        "algorithm",
        [],
        [helper.make_tensor_value_info("w_new", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.ones(2, np.float32), "step")],
    )
    info = onnx.TrainingInfoProto(algorithm=algorithm)
    info.update_binding.add(key="w", value="w_new")
    proto = model_of(graph)
    proto.training_info.append(info)
    return proto


WEIGHT = numpy_helper.from_array(np.ones(2, np.float32), "w")


def test_training_information_is_kept_while_it_fits(tmp_path: Path) -> None:
    model = assert_kept(training(identity(initializer=[WEIGHT])), tmp_path)
    value = model.graph.initializers["w"]
    value.const_value = ir.Tensor(np.zeros(2, np.float32), name="w")
    assert len(to_proto(model).training_info) == 1
    value.const_value = ir.Tensor(np.zeros(3, np.float32), name="w")
    with pytest.raises(GraphoptError, match=r"kept\.onnx: its training_info refers to 'w', which"):
        save(model, tmp_path / "kept.onnx")
    del model.graph.initializers["w"]
    with pytest.raises(GraphoptError, match="'w', which is gone"):
        to_proto(model)


def test_training_information_with_external_data_is_refused(tmp_path: Path) -> None:
    proto = training(identity(initializer=[WEIGHT]))
    step = proto.training_info[0].algorithm.initializer[0]
    step.ClearField("raw_data")
    step.data_location = TensorProto.EXTERNAL
    step.external_data.add(key="location", value="data")
    with pytest.raises(GraphoptError, match=r"training_info has external data \('step'\)"):
        loaded(proto, tmp_path)


def test_types_and_annotations_of_names_without_a_value(tmp_path: Path) -> None:
    graph = identity(initializer=[WEIGHT])
    for name in ("nowhere", "w", "x", "y"):
        graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]))
    for name in ("nowhere", "x", "w"):
        annotation = graph.quantization_annotation.add(tensor_name=name)
        annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w")
    assert_kept(model_of(graph), tmp_path)


def test_initializers_gain_no_types(tmp_path: Path) -> None:
    model = assert_kept(model_of(identity(initializer=[WEIGHT])), tmp_path)
    assert not to_proto(model).graph.value_info


def test_initializers_that_are_inputs_stay_inputs(tmp_path: Path) -> None:
    graph = identity(initializer=[WEIGHT])
    graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2]))
    model = assert_kept(model_of(graph), tmp_path)
    assert [value.name for value in model.graph.inputs] == ["x", "w"]


def test_functions_documents_and_metadata(tmp_path: Path) -> None:
    node = helper.make_node("Elu", ["a"], ["b"], doc_string="documented")
    node.attribute.add(name="alpha", ref_attr_name="alpha", type=AttributeProto.FLOAT)
    function = helper.make_function(
        "local", "F", ["a"], ["b"], [node], OPSETS, ["alpha"], overload="o", doc_string="f"
    )
    function.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [2]))
    function.metadata_props.add(key="k", value="v")
    weight = onnx.TensorProto()
    weight.CopyFrom(WEIGHT)
    weight.metadata_props.add(key="k", value="v")
    weight.doc_string = "weight"
    graph = identity(initializer=[weight], doc_string="graph")
    graph.node[0].metadata_props.add(key="k", value="v")
    graph.metadata_props.add(key="k", value="v")
    proto = model_of(graph, functions=[function], producer_name="p", doc_string="model")
    proto.opset_import.add(domain="local", version=1)
    proto.metadata_props.add(key="k", value="v")
    assert_kept(proto, tmp_path)


def test_attributes_without_a_type_get_the_one_of_their_field(tmp_path: Path) -> None:
    graph = identity()
    graph.node[0].attribute.add(name="axis", i=3)
    path = tmp_path / "model.onnx"
    path.write_bytes(model_of(graph).SerializeToString())
    attribute = to_proto(load(path)).graph.node[0].attribute[0]
    assert (attribute.i, attribute.type) == (3, AttributeProto.INT)


def duplicate_initializers() -> onnx.ModelProto:
    other = numpy_helper.from_array(np.zeros(2, np.float32), "w")
    return model_of(identity(initializer=[WEIGHT, other]))


def nameless_initializer() -> onnx.ModelProto:
    return model_of(identity(initializer=[numpy_helper.from_array(np.ones(2, np.float32), "")]))


def two_versions_of_an_opset() -> onnx.ModelProto:
    proto = model_of(identity())
    proto.opset_import.add(domain="", version=17)
    return proto


def two_functions_of_one_name() -> onnx.ModelProto:
    functions = [
        helper.make_function(
            "local", "F", ["a"], ["b"], [helper.make_node(op, ["a"], ["b"])], OPSETS
        )
        for op in ("Relu", "Elu")
    ]
    return model_of(identity(), functions=functions)


def two_attributes_of_one_name() -> onnx.ModelProto:
    proto = model_of(identity())
    proto.graph.node[0].attribute.extend(helper.make_attribute("a", n) for n in (1, 2))
    return proto


def a_name_produced_twice() -> onnx.ModelProto:
    proto = model_of(identity())
    proto.graph.node.add(op_type="Identity", input=["x"], output=["y"])
    return proto


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (duplicate_initializers, "graph.initializer"),
        (nameless_initializer, "graph.initializer"),
        (two_versions_of_an_opset, "opset_import"),
        (two_functions_of_one_name, "functions"),
        (two_attributes_of_one_name, r"graph.node\[0\].attribute"),
        (a_name_produced_twice, "redeclared"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_would_be_dropped_is_refused_by_name(tmp_path: Path, make: object, cause: str) -> None:
    with pytest.raises(GraphoptError, match=cause):
        loaded(make(), tmp_path)  # type: ignore[operator] # parametrize types nothing


def weights_of_zeros(folder: Path, dtype: type[np.generic]) -> tuple[ir.Model, np.ndarray]:
    array = np.zeros((64, 64), dtype)
    array[3, ::7] = 5
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "graph",
        [],
        [
            helper.make_tensor_value_info(
                "y", helper.np_dtype_to_tensor_dtype(array.dtype), [64, 64]
            )
        ],
        [numpy_helper.from_array(array, "w")],
    )
    return loaded(model_of(graph), folder), array


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int8, np.int32])
def test_sparse_storage_runs_and_survives(tmp_path: Path, dtype: type[np.generic]) -> None:
    import onnxruntime

    model, array = weights_of_zeros(tmp_path, dtype)
    path = tmp_path / "sparse.onnx"
    saved = save(model, path, sparse_storage=True)
    proto = onnx.load(path)
    assert not proto.graph.initializer
    stored = proto.graph.sparse_initializer[0]
    values, indices = map(numpy_helper.to_array, (stored.values, stored.indices))
    assert saved.sparse_saved == array.nbytes - values.nbytes - indices.nbytes
    onnx.checker.check_model(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {})[0], array)
    again = load(path)
    tensor = again.graph.initializers["w"].const_value
    assert isinstance(tensor, SparseTensor)
    np.testing.assert_array_equal(tensor.numpy(), array)
    for options in ({}, {"sparse_storage": True}, {"external_data": True}):
        save(again, tmp_path / "again.onnx", **options)
        assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()
    tensor = again.graph.initializers["w"].const_value
    again.graph.initializers["w"].const_value = ir.Tensor(tensor.numpy(), name="w")
    assert save(again, tmp_path / "dense.onnx").sparse_saved == 0


def test_sparse_storage_leaves_what_would_grow(tmp_path: Path) -> None:
    model, array = weights_of_zeros(tmp_path, np.float32)
    half = array.copy()
    half[:, ::2] = 1
    model.graph.initializers["w"].const_value = ir.Tensor(half, name="w")
    assert save(model, tmp_path / "dense.onnx", sparse_storage=True).sparse_saved == 0


def test_sparse_storage_keeps_negative_zero_and_nan(tmp_path: Path) -> None:
    model, array = weights_of_zeros(tmp_path, np.float32)
    array[5, 5], array[6, 6] = -0.0, np.nan
    model.graph.initializers["w"].const_value = ir.Tensor(array, name="w")
    save(model, tmp_path / "sparse.onnx", sparse_storage=True)
    tensor = load(tmp_path / "sparse.onnx").graph.initializers["w"].const_value
    assert tensor.tobytes() == array.tobytes()
