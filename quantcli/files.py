"""The file system's one door for models and results: strict reading, all-or-nothing writing.

What a model weighs is never held in memory: data files are mapped, and large results are written tensor by tensor.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Protocol

import onnx_ir as ir

from quantcli import graph, mapped, serialization
from quantcli.errors import ModelError, OutputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from quantcli.serialization import Content

_QUANTIZED_OPS: Final = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QGemm",
     "QAttention", "MatMulNBits", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "FakeQuant"}
)  # fmt: skip
_CHUNK: Final = 1 << 20
ONE_FILE_BYTES: Final = 1 << 30  # of weights in one file: protobuf ends at 2 GiB, and readers take a file twice


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
    _map(model, path)
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


def data_file(target: Path) -> Path:
    """Return where the weights of a model stand that is too large for one file: in one other beside it."""
    return target.with_name(f"{target.name}.data")


def needs_data_file(model: ir.Model, source: ir.Model | None = None) -> bool:
    """Tell whether a model is written in two files: it is large, or made from one that no single file can hold.

    Args:
        model: The model to write.
        source: The float model that it was made from.
    """
    before = serialization.constant_bytes(source) if source is not None else 0
    return serialization.constant_bytes(model) > ONE_FILE_BYTES or before >= 2 * ONE_FILE_BYTES


def model_contents(model: ir.Model, target: Path, source: ir.Model | None = None) -> dict[Path, Content]:
    """Return what to write for a model: one file, or ``target`` and its data file; the same model gives the same bytes.

    Args:
        model: The model.
        target: Where it goes.
        source: The float model that it was made from.
    """
    if not needs_data_file(model, source):
        return {target: serialization.whole(model)}
    made, weights = serialization.apart(model, data_file(target).name)
    return {target: made, data_file(target): weights}


def superseded(target: Path) -> list[Path]:
    """Return the data file that the model at ``target`` reads, if it is the one that a model written there would have.

    It goes with the model when that is replaced by one that needs none; a file that the old model does not name stays.
    """
    beside = data_file(target)
    if not (target.is_file() and beside.is_file()):
        return []
    try:
        with _silent("onnx_ir.serde"):
            named = external_files(ir.load(target), target)
    except Exception:  # noqa: BLE001 - what is there is no model of ours; it says nothing about the file beside it
        return []
    return [beside] if beside in named else []


class Writable(Protocol):
    """What a file shall hold."""

    def write_to(self, stream: IO[bytes]) -> None:
        """Write it, bit by bit."""
        ...


def write_all(contents: Mapping[Path, Writable], obsolete: Collection[Path] = ()) -> None:
    """Write all files or none: each beside its place under a temporary name, then all renamed.

    Args:
        contents: What to write where.
        obsolete: Files to remove as the others take their places.

    Raises:
        OutputError: The disk is full, or the folder went away; everything is as it was.
    """
    written: dict[Path, Path] = {}
    placed: list[Path] = []
    old: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            written[path] = _temporary(path, content)
        for path in dict.fromkeys((*contents, *obsolete)):
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
            reason = error.strerror or str(error)
            raise OutputError(f"cannot write {first}: {reason}", hint="nothing was written") from error
        raise
    finally:
        for temporary in (*written.values(), *old.values()):
            temporary.unlink(missing_ok=True)


def save_temporary(model: ir.Model, path: Path) -> None:
    """Write an intermediate model for inspection."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for place, content in model_contents(model, path).items():
            with place.open("wb") as stream:
                content.write_to(stream)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def _temporary(path: Path, content: Writable) -> Path:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            content.write_to(stream)
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


def _map(model: ir.Model, path: Path) -> None:
    try:
        mapped.map_once(model)
    except OSError as error:
        raise ModelError(f"{path}: external data {error.filename!r} cannot be read: {error.strerror}") from error


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
