"""`graphopt convert`: export a model of another framework to ONNX, and prove it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from graphopt.cli.limit_options import limit_options
from graphopt.cli.output_file import output_file
from graphopt.cli.streams import beside
from graphopt.cli.tolerance_options import tolerance_of, tolerance_options
from graphopt.cli.written_files import MODEL, check_written_files
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphopt.convert import Conversion
    from graphopt.model import Saved


@click.command("convert")
@click.argument("source")
@click.option(
    "-o",
    "--output",
    required=True,
    callback=output_file,
    help="The ONNX file; in ONNX's text syntax where it ends in .onnxtxt.",
)
@click.option(
    "--from",
    "framework",
    metavar="FRAMEWORK",
    help="torch, tensorflow, keras, tflite, sklearn, xgboost, lightgbm, catboost, jax or onnx; by "
    "default what the file's content says.",
)
@click.option(
    "--opset",
    type=click.IntRange(min=1),
    help="Version of the operator set [the exporter's choice].",
)
@click.option(
    "--input-name", "input_names", multiple=True, help="New name of the first, second, ... input."
)
@click.option(
    "--output-name",
    "output_names",
    multiple=True,
    help="New name of the first, second, ... output.",
)
@click.option(
    "--dynamic-shapes",
    "shapes",
    multiple=True,
    metavar="'INPUT[DIM,...]'",
    help="Dimensions of an input, as in 'tokens[batch, sequence, 8]': those with a name may vary."
    " By default the batch, axis 0 of every input, varies.",
)
@click.option("--static", is_flag=True, help="Keep every size as in the example inputs.")
@click.option("--data", metavar="NPZ", help="Example inputs by name, where the source has none.")
@click.option(
    "--model", metavar="MODULE:CALLABLE", help="Builds the network that a state dict belongs to."
)
@click.option(
    "--state-dict-key", metavar="KEY", help="Which dict of a checkpoint holds the weights."
)
@click.option(
    "--signature",
    metavar="NAME",
    help="Which signature of a SavedModel; of a frozen graph 'inputs -> outputs', as in 'x -> y'.",
)
@click.option(
    "--layout",
    type=click.Choice(("keep", "nchw")),
    default="keep",
    show_default=True,
    help="nchw: images go in and come out with channels first.",
)
@click.option(
    "--allow-pickle",
    is_flag=True,
    help="Read pickles, as joblib's. Reading one can run any code: only from those you trust.",
)
@click.option(
    "--trust",
    multiple=True,
    metavar="TYPE",
    help="A type, by full name, that a skops file may hold; repeatable.",
)
@click.option(
    "--cleanup/--no-cleanup",
    default=None,
    help="Run cleanup on it.  [cleanup, but not where SOURCE is ONNX already]",
)
@click.option(
    "--keep-source-paths", is_flag=True, help="Keep stack traces and folders in metadata."
)
@tolerance_options
@limit_options
@click.option(
    "--external-data/--no-external-data",
    default=None,
    help="Weights in a file of their own [above 1.5 GB].",
)
@click.option("--json", "json_file", metavar="FILE", help="Write the results as JSON; - is stdout.")
def command(
    source: str,
    output: Path,
    framework: str | None,
    opset: int | None,
    input_names: tuple[str, ...],
    output_names: tuple[str, ...],
    shapes: tuple[str, ...],
    static: bool,
    data: str | None,
    model: str | None,
    state_dict_key: str | None,
    signature: str | None,
    layout: Literal["keep", "nchw"],
    allow_pickle: bool,
    trust: tuple[str, ...],
    cleanup: bool | None,
    keep_source_paths: bool,
    rtol: float | None,
    atol: float | None,
    max_bytes: int,
    max_depth: int,
    follow_symlinks: bool,
    external_data: bool | None,
    json_file: str | None,
) -> None:
    """Export SOURCE to ONNX and compare both on example inputs, at several sizes.

    From PyTorch: a .pt2 program; module:callable, which returns a network, (network, example
    inputs) or (network, args, kwargs); a state dict together with --model; TorchScript with --data.

    From TensorFlow: a SavedModel folder, a frozen graph, a tf.function by module:callable; .keras,
    .h5; .tflite, where quantized ones stay so, as QDQ.

    From scikit-learn: .skops, pickles with --allow-pickle. From XGBoost, LightGBM and CatBoost: the
    files that they write. From JAX: module:callable, which returns (function or flax module,
    example inputs). From ONNX: any opset to any, text, a model inside a zip; --max-bytes,
    --max-depth and --follow-symlinks are for these.

    Nothing is written when ONNX Runtime computes something else than the source.
    """
    from graphopt.convert import Options, convert, parse_shape
    from graphopt.model import Limits
    from graphopt.report.json_file import write_json

    check_written_files(
        {MODEL: output, "--json": json_file},
        [data, model, *([] if source.endswith(".onnx") else [source])],
        replaceable=[source],
    )
    options = Options(
        opset=opset,
        input_names=input_names,
        output_names=output_names,
        static=static,
        dynamic_shapes=dict(parse_shape(text) for text in shapes),
        data=data,
        model=model,
        state_dict_key=state_dict_key,
        signature=signature,
        layout=layout,
        allow_pickle=allow_pickle,
        trust=trust,
        cleanup=cleanup,
        limits=Limits(max_bytes, max_depth, follow_symlinks),
        keep_source_paths=keep_source_paths,
        tolerance=tolerance_of(rtol, atol),
    )
    conversion = convert(source, framework=framework, options=options)
    for note in conversion.notes:
        click.echo(f"graphopt: {note}", err=True)
    saved = _saved(conversion.model, output, external_data)
    if json_file is not None:
        write_json(_record(conversion, saved), json_file)
    if json_file != "-":
        with beside(output):
            _print(conversion, saved)


def _saved(model: ir.Model, output: Path, external_data: bool | None) -> Saved:
    from graphopt.convert.onnx.text import SUFFIX, write_text
    from graphopt.model import save

    if output.suffix != SUFFIX:
        return save(model, output, external_data=external_data)
    if external_data:
        raise GraphoptError("a text cannot have external data", file=output, fix="name it .onnx")
    saved, lost = write_text(model, output)
    if lost:
        click.echo(f"graphopt: ONNX's text syntax leaves out {', '.join(lost)}", err=True)
    return saved


def _values(conversion: Conversion) -> dict[str, list[dict[str, object]]]:
    from graphopt.model.declared_shapes import dims_of

    graph = conversion.model.graph
    return {
        side: [
            {
                "name": value.name,
                "dtype": None if value.dtype is None else value.dtype.name,
                "shape": dims_of(value) or (),
            }
            for value in values
        ]
        for side, values in (("inputs", graph.inputs), ("outputs", graph.outputs))
    }


def _record(conversion: Conversion, saved: Saved) -> dict[str, object]:
    return {
        "path": str(saved.path),
        "data_files": [str(path) for path in saved.data_files],
        "bytes": saved.size,
        "opsets": dict(conversion.model.opset_imports),
        **_values(conversion),
        "proven": bool(conversion.parity),
        "parity": conversion.parity,
        "notes": conversion.notes,
    }


def _print(conversion: Conversion, saved: Saved) -> None:
    from graphopt.cli.parity_table import parity_table
    from graphopt.model.declared_shapes import dims_of, shape_text
    from graphopt.report.numbers import size
    from graphopt.report.tables import console, plain

    out = console()
    opset = conversion.model.opset_imports.get("")
    out.print(plain(f"{saved.path}: {size(saved.size)}, opset {opset}", 1000), soft_wrap=True)
    graph = conversion.model.graph
    for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
        for value in values:
            dtype = "?" if value.dtype is None else value.dtype.name
            out.print(plain(f"{kind} {value.name}: {dtype}{shape_text(dims_of(value) or ())}", 400))
    if conversion.parity:
        out.print(parity_table("Against the source, on example inputs", conversion.parity))
    else:
        out.print(plain("NOT PROVEN: nothing was compared with the source", 1000), soft_wrap=True)
