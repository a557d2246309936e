"""A function in a Python file, ``calib.py:samples``: TFLite's representative_dataset, given on the command line."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
import traceback
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from typing import TYPE_CHECKING, Final, cast

from quantcli.errors import DatasetError, QuantError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    from quantcli.data.memory import SampleFunction

_NAMED: Final = re.compile(r"(?P<file>.*\.py):(?P<name>\w*)", re.DOTALL)


def is_function(path: Path) -> bool:
    """Tell whether a path is ``file.py:function``, or a Python file without the function."""
    return _NAMED.fullmatch(str(path)) is not None or path.suffix == ".py"


def load_function(path: Path) -> SampleFunction:
    """Import a Python file and return the function that the path names.

    The folder of the file can be imported from while the file is; nothing stays on the import path.

    Raises:
        DatasetError: The file cannot be imported, or has no such function.
    """
    match = _NAMED.fullmatch(str(path))
    file, name = (path.with_name(match["file"].rpartition("/")[2]), match["name"]) if match else (path, "")
    module = _imported(file)
    functions = [n for n, f in vars(module).items() if callable(f) and getattr(f, "__module__", "") == module.__name__]
    function = getattr(module, name, None) if name else None
    if not callable(function):
        got = f"no function {name!r}" if name else "a Python file without the name of a function"
        there = ", ".join(functions) or "none"
        raise DatasetError(
            f"{file}: {got}, expected FILE.py:FUNCTION; functions there: {there}{did_you_mean(name, functions)}",
            hint=f"Write {file}:{functions[0] if functions else 'representative_dataset'}.",
        )
    return cast("SampleFunction", function)


class _WithoutCache(SourceFileLoader):
    """Imports a file and leaves nothing beside it."""

    def set_data(self, path: str, data: bytes | memoryview, *, _mode: int = 0o666) -> None:  # type: ignore[override]
        """Keep no compiled copy."""


def _imported(file: Path) -> ModuleType:
    if not file.is_file():
        raise DatasetError(f"{file}: no such file, expected a Python file", hint="Check the path.")
    name = f"_samples_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]}"
    loader = _WithoutCache(name, str(file.resolve()))
    spec = importlib.util.spec_from_loader(name, loader)
    if spec is None:
        raise DatasetError(f"{file}: cannot be imported, expected a Python file")
    module = importlib.util.module_from_spec(spec)
    with _importable(module, str(file.resolve().parent)):
        try:
            loader.exec_module(module)
        except QuantError:
            raise
        except (Exception, SystemExit) as error:
            raise DatasetError(
                f"{file}{_line(error, str(file.resolve()))}: cannot be imported: {type(error).__name__}: {error}",
                hint="Correct the file; `python FILE` shows the same error.",
            ) from error
    return module


@contextmanager
def _importable(module: ModuleType, folder: str) -> Iterator[None]:
    """Let a module find itself and what lies beside it, for as long as it is being imported."""
    before = list(sys.path)
    sys.path.insert(0, folder)
    sys.modules[module.__name__] = module
    try:
        yield
    finally:
        sys.path[:] = before
        sys.modules.pop(module.__name__, None)


def _line(error: BaseException, file: str) -> str:
    if isinstance(error, SyntaxError) and error.filename == file:
        return f":{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f":{lines[-1]}" if lines else ""
