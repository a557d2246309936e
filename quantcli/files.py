"""The file system's one door for models and results: strict reading, all-or-nothing writing."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import onnx_ir as ir

from quantcli import graph
from quantcli.errors import ModelError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_QUANTIZED_OPS: Final = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QGemm",
     "QAttention", "MatMulNBits", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "FakeQuant"}
)  # fmt: skip
_CHUNK: Final = 1 << 20


def load_model(path: Path) -> ir.Model:
    """Read a float ONNX model; weights are mapped, not copied.

    Raises:
        ModelError: No such file, not ONNX, external data missing or outside its folder, already quantized.
    """
    check_exists(path)
    try:
        with _silent("onnx_ir.serde"):
            model = ir.load(path)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(
            f"{path}: not a readable ONNX model ({reason})", hint="check the file with onnx.checker, or export it again"
        ) from error
    if not len(model.graph) and not model.graph.outputs:
        raise ModelError(f"{path}: not an ONNX model: it has no graph", hint="expected the file that an exporter wrote")
    _check_external_data(model, path)
    _check_sources(model, path)
    try:
        model.graph.sort()
    except Exception as error:
        raise ModelError(f"{path}: its nodes form a cycle") from error
    graph.name_everything(model)
    check_float(model, str(path))
    return model


def check_exists(path: Path) -> None:
    """Raise where there is no model file."""
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise ModelError(f"{path}: {kind}; expected an .onnx file")


def check_float(model: ir.Model, where: str) -> None:
    """Raise for a model that is quantized already: quantizing twice gives wrong numbers."""
    graphs = [*graph.all_graphs(model), *(f.graph for f in model.functions.values())]
    for g in graphs:
        for node in g:
            if node.op_type in _QUANTIZED_OPS or node.op_type.startswith("QLinear"):
                raise ModelError(
                    f"{where}: already quantized: node {graph.node_name(node)!r} is a {node.op_type}",
                    hint="give the float model that it was made from",
                )


def external_files(model: ir.Model, path: Path) -> list[Path]:
    """Return the files beside a model that hold its weights."""
    return sorted({path.parent / str(t.location) for _, t in graph.external_constants(model)})


def sha256(path: Path) -> str:
    """Return the hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def check_output(path: Path, inputs: tuple[Path, ...]) -> None:
    """Raise before any work where the output cannot be written.

    Raises:
        OutputError: The folder is missing or read-only, the output is a folder, or is one of the inputs.
    """
    folder = path.parent
    if path.is_dir():
        raise OutputError(f"{path} is a folder; expected the name of a file", hint=f"-o {path / 'model.onnx'}")
    if not folder.is_dir():
        raise OutputError(f"{path}: the folder {folder} does not exist", hint=f"mkdir -p {folder}")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is no plain file; expected the name of one", hint="give another name with -o")
    for source in inputs:
        if path.exists() and source.exists() and path.samefile(source):
            raise OutputError(f"{path}: the output is the input itself: {source}", hint="give another name with -o")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{path}: the folder {folder} is not writable", hint="give another place with -o")


def model_bytes(model: ir.Model) -> bytes:
    """Serialize a model; the same model gives the same bytes."""
    copy = model.clone()
    for value, tensor in graph.external_constants(copy):
        value.const_value = ir.Tensor(tensor.numpy(), name=value.name)
    return bytes(ir.to_proto(copy).SerializeToString(deterministic=True))


def write_all(contents: Mapping[Path, bytes]) -> None:
    """Write all files or none: each beside its place under a temporary name, then all renamed.

    Raises:
        OutputError: The disk is full, or the folder went away; nothing is left behind.
    """
    written: dict[Path, Path] = {}
    placed: list[Path] = []
    old: dict[Path, Path] = {}
    try:
        for path, data in contents.items():
            written[path] = _temporary(path, data)
        for path in contents:
            if path.exists():
                aside = path.with_name(f".{path.name}.old")
                path.replace(aside)
                old[path] = aside
        for path, temporary in written.items():
            temporary.replace(path)
            placed.append(path)
    except BaseException as error:
        for path in placed:
            path.unlink(missing_ok=True)
        for path, aside in old.items():
            aside.replace(path)
        old.clear()
        if isinstance(error, OSError):
            first = next(iter(contents), Path())
            raise OutputError(f"cannot write {first}: {error.strerror}", hint="nothing was written") from error
        raise
    finally:
        for temporary in (*written.values(), *old.values()):
            temporary.unlink(missing_ok=True)


def save_temporary(model: ir.Model, path: Path) -> None:
    """Write an intermediate model for inspection."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model_bytes(model))
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def _temporary(path: Path, data: bytes) -> Path:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        temporary.chmod(0o666 & ~_umask())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """Keep a logger of another package off the user's terminal; what it would say is checked and raised here."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _check_sources(model: ir.Model, path: Path) -> None:
    for node in model.graph.all_nodes():
        for value in node.inputs:
            made = value is None or value.producer() is not None or value.is_graph_input() or value.is_initializer()
            if value is not None and not made and value.graph is None:
                raise ModelError(
                    f"{path}: node {node.name or node.op_type!r} reads {value.name!r}, which nothing makes",
                    hint="check the file with onnx.checker, or export it again",
                )


def _check_external_data(model: ir.Model, path: Path) -> None:
    folder = path.parent.resolve()
    for value, tensor in graph.external_constants(model):
        _check_external(tensor, graph.name_of(value), path, folder)


def _check_external(tensor: ir.ExternalTensor, name: str, path: Path, folder: Path) -> None:
    place = (folder / str(tensor.location)).resolve()
    if not place.is_relative_to(folder):
        raise ModelError(
            f"{path}: external data of {name!r} lies outside the model's folder: {tensor.location}",
            hint="put the data file beside the model and export it again",
        )
    if not place.is_file():
        raise ModelError(
            f"{path}: external data file {str(tensor.location)!r} of {name!r} is missing",
            hint="put it beside the model",
        )
    needed = (tensor.offset or 0) + tensor.nbytes
    if place.stat().st_size < needed:
        raise ModelError(
            f"{path}: external data file {str(tensor.location)!r} ends before {name!r}: "
            f"{place.stat().st_size} bytes, expected at least {needed}"
        )
