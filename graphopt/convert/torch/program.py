"""Load a torch.export program without running code of its file.

`torch.export.load` unpickles parts of an archive with no restriction, loads compiled libraries,
evaluates the text of symbolic sizes with sympy and that of guards as Python, follows any path of
attributes below `torch` to an operator, and makes Python source of the names of values. An archive
is therefore screened first: no pickles but the example inputs, which `weights_only` reads; no
compiled code; arithmetic in sizes and guards; operators of PyTorch's own namespaces; names that are
identifiers. The rest of torch's reader is trusted.
"""

from __future__ import annotations

import ast
import json
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from graphopt.convert.archives import open_archive
from graphopt.convert.reasons import first_line
from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    import torch

_AGAIN = "in a program that you trust, save it again with torch.export.save of torch 2.9 or newer"
_OWN_CODE = "build the network in Python and give module:callable instead"

_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed|torchvision|onnx|onnx_symbolic)"
    r"\.(?!from_file\b)(_?[a-z]\w*|__i?(and|or|xor|lshift|rshift)__)(\.[A-Za-z]\w*)?"
    r"|torch\.ops\.higher_order\.(cond|while_loop|map_impl|map|scan|associative_scan"
    r"|wrap_with_set_grad_enabled|wrap_with_autocast|invoke_subgraph|flex_attention"
    r"|auto_functionalized|auto_functionalized_v2)"
    r"|torch\.sym_[a-z]+"
    r"|math\.[a-z]\w*"
    r"|_operator\.(getitem|add|mul|sub|truediv|floordiv|mod|pow|neg|pos|abs|and_|or_|xor|not_|inv"
    r"|ge|le|gt|lt|eq|ne|lshift|rshift)"
)
_VALUE_NAME = re.compile(r"[A-Za-z_]\w*")
_SYMBOL = re.compile(r"[A-Za-z]\w*")
_FUNCTIONS = frozenset(
    {
        "Abs", "Add", "And", "CeilDiv", "CeilToInt", "CleanDiv", "Eq", "FloatPow", "FloatTrueDiv",
        "FloorDiv", "FloorToInt", "Ge", "Gt", "Identity", "IntTrueDiv", "Integer",
        "IsNonOverlappingAndDenseIndicator", "LShift", "Le", "Lt", "Max", "Min", "Mod",
        "ModularIndexing", "Mul", "Ne", "Not", "Or", "PowByNatural", "PythonMod", "RShift",
        "Rational", "RoundDecimal", "RoundToInt", "ToFloat", "TruncToFloat", "TruncToInt", "Where",
        "ceiling", "floor", "Equality", "GreaterThan", "LessThan", "StrictGreaterThan",
        "StrictLessThan", "Unequality",
    }
)  # fmt: skip
_METHODS = frozenset({"size", "stride", "storage_offset", "dim", "ndim", "shape"})
_ARITHMETIC = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop,
    ast.boolop, ast.cmpop, ast.Load,
)  # fmt: skip
_LONGEST = 4096
_LARGEST_EXPONENT = 64


def load_program(path: Path) -> torch.export.ExportedProgram:
    """Screen a `.pt2` archive and load it.

    Raises:
        GraphoptError: It would run code or unpickle objects, or torch cannot read it.
    """
    screen(path)
    import torch

    with _pickles_hold_weights_only():
        try:
            return torch.export.load(str(path))
        except Exception as error:
            # Whatever torch's reader stumbles over is a fault of the file.
            raise GraphoptError(
                f"torch {torch.__version__} cannot read it: {first_line(error)}",
                file=path,
                fix=_AGAIN,
            ) from error


def screen(path: Path) -> None:
    """Refuse an archive that could run code when it is loaded.

    Raises:
        GraphoptError: What was found, and what to do.
    """
    with open_archive(path) as archive:
        for entry in archive.infolist():
            _screen_entry(path, archive, entry)


def _screen_entry(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    name = entry.filename.partition("/")[2]
    if entry.compress_type != zipfile.ZIP_STORED:
        raise GraphoptError(f"its entry {name} is compressed, which torch never does", file=path)
    if name.startswith("data/aotinductor/"):
        raise GraphoptError("holds compiled code", file=path, fix=_AGAIN)
    if re.fullmatch(r"data/(weights|constants)/.*\.pt|data/constants/(custom|opaque)_obj.*", name):
        raise GraphoptError(f"holds a pickled object, {name}", file=path, fix=_OWN_CODE)
    if name.endswith(".json"):
        content = archive.read(entry)
        try:
            _screen_json(path, json.loads(content))
        except (ValueError, RecursionError) as error:
            raise GraphoptError(f"its entry {name} cannot be read: {error}", file=path) from error


def _screen_json(path: Path, content: object, key: str = "") -> None:
    if isinstance(content, dict):
        for inner_key, item in content.items():
            if not isinstance(item, (dict, list)):
                _screen_field(path, inner_key, item)
            _screen_json(path, item, inner_key)
        if key.endswith("_values") and not all(map(_VALUE_NAME.fullmatch, content)):
            raise GraphoptError("a value's name is not an identifier", file=path)
    elif isinstance(content, list):
        for item in content:
            if isinstance(item, (dict, list)):
                _screen_json(path, item)
            else:
                _screen_field(path, key, item)


def _screen_field(path: Path, key: str, item: object) -> None:
    """Check one field of the JSON, whatever object it is in."""
    if key == "use_pickle" and item:
        raise GraphoptError("holds pickled weights", file=path, fix=_OWN_CODE)
    if not isinstance(item, str):
        return
    if key in {"target", "as_operator"} and not _OPERATOR.fullmatch(item):
        raise GraphoptError(
            f"calls {item!r}, which is no operator of PyTorch", file=path, fix=_OWN_CODE
        )
    if key in {"expr_str", "guards_code"} and not _is_arithmetic(item, key == "guards_code"):
        raise GraphoptError(f"has {item[:60]!r} where arithmetic belongs", file=path)
    if key in {"name", "as_name"} and item and not _VALUE_NAME.fullmatch(item):
        raise GraphoptError(f"has a value called {item[:60]!r}", file=path)
    if key in {"in_spec", "out_spec", "as_pytree", "treespec"} and _imports(item):
        raise GraphoptError(
            "the structure of its inputs imports a module", file=path, fix=_OWN_CODE
        )


def _imports(spec: str) -> bool:
    """Whether a serialized tree names a Python object, at any depth of JSON inside JSON."""
    try:
        content = json.loads(spec)
    except ValueError:
        return False
    pending = [content]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            if {"__enum__", "default_factory_module"} & item.keys():
                return True
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, str) and _imports(item):
            return True
    return False


def _is_arithmetic(text: str, of_inputs: bool) -> bool:
    """Whether an expression has numbers, symbols and known functions only.

    Args:
        text: The expression, in Python's syntax.
        of_inputs: Whether it may also have sizes of inputs, as in L['x'].size()[0].
    """
    if len(text) > _LONGEST:
        return False
    try:
        pending: list[ast.AST] = [ast.parse(text, mode="eval")]
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    while pending:
        node = pending.pop()
        # Strings occur only where they were matched: sympy would evaluate them elsewhere.
        if _is_symbol(node):
            continue
        if not (_is_allowed(node) or (of_inputs and _is_input_size(node))):
            return False
        if isinstance(node, ast.Subscript):
            pending.append(node.value)
        else:
            pending.extend(ast.iter_child_nodes(node))
    return True


def _is_symbol(node: ast.AST) -> bool:
    """Whether a node is Symbol('s0', positive=True, ...)."""
    match node:
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))]):
            flags = [keyword.value for keyword in node.keywords]
            return _SYMBOL.fullmatch(name) is not None and all(
                isinstance(flag, ast.Constant) and isinstance(flag.value, bool) for flag in flags
            )
    return False


def _is_allowed(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="Pow"), args=[_, exponent], keywords=[]):
            return _is_small(exponent)
        case ast.Call(func=ast.Name(id=name), keywords=[]):
            return name in _FUNCTIONS
        case ast.BinOp(op=ast.Pow(), right=exponent):
            return _is_small(exponent)
        case ast.Name(id=name):
            return _SYMBOL.fullmatch(name) is not None
        case ast.Constant(value=value):
            return isinstance(value, (int, float))
    return isinstance(node, _ARITHMETIC)


def _is_input_size(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(attr=name), keywords=[]):
            return name in _METHODS
        case ast.Attribute(attr=name):
            return name in _METHODS
    return isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)


def _is_small(exponent: ast.AST) -> bool:
    """Whether an exponent is a constant that cannot make a number of gigabytes."""
    if isinstance(exponent, ast.Call) and len(exponent.args) == 1:
        exponent = exponent.args[0]
    if isinstance(exponent, ast.UnaryOp):
        exponent = exponent.operand
    return (
        isinstance(exponent, ast.Constant)
        and isinstance(exponent.value, (int, float))
        and abs(exponent.value) <= _LARGEST_EXPONENT
    )


@contextmanager
def _pickles_hold_weights_only() -> Iterator[None]:
    """Let every torch.load inside torch.export.load refuse objects.

    Without it the example inputs are unpickled with no restriction where `weights_only` fails.
    """
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
