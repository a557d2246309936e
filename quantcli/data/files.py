"""Files as the dataset sees them: found by a pattern, and read with one kind of error.

Knows no format.
"""

from __future__ import annotations

import glob
import struct
import tokenize
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from quantcli.errors import DatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator

# What zipfile, numpy's header parser and Pillow's decoders raise on damaged files.
_UNREADABLE: tuple[type[Exception], ...] = (
    OSError,
    ValueError,
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    TypeError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def reading(
    path: Path, expected: str, *, hint: str | None = None, also: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turn whatever a damaged or missing file raises into a DatasetError.

    Args:
        path: The file.
        expected: What it should have been.
        hint: What to do next.
        also: Errors of the library that reads it.
    """
    try:
        yield
    except (*_UNREADABLE, *also) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DatasetError(
            f"{path}: cannot be read ({reason}), expected {expected}",
            hint=hint or "Check the path, and write the file again if it is damaged.",
        ) from error


def matching(pattern: str, folder: Path, where: str) -> tuple[Path, ...]:
    """Return the files that a pattern relative to a folder names, sorted by name.

    Raises:
        DatasetError: There is none.
    """
    with reading(folder, f"a folder to look for {pattern!r}"):
        names = sorted(glob.glob(pattern, root_dir=folder, recursive=True))  # noqa: PTH207 - absolute patterns too
        paths = tuple(path for path in (folder / name for name in names) if path.is_file())
    if not paths:
        absolute = Path(folder.absolute(), pattern)
        near = f" Did you mean {pattern.rstrip('/')}/*?" if (folder / pattern).is_dir() else ""
        raise DatasetError(
            f"{where}: no file matches {pattern!r}, that is {absolute}; expected at least one file",
            hint=f"The pattern is relative to the folder of the spec, {folder.absolute()}.{near}",
        )
    return paths
