"""What was observed before, kept in the user's cache folder: found by content, never trusted blindly, never in the way.

One entry holds what was seen of one model on certain samples. Its name is a digest of both and of all else that decides
numbers: this package, onnxruntime, numpy, the CPU's instructions. Entries are replaced as a whole, so several processes
may share the folder; one that cannot be read counts as not there, and what cannot be written is not kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

import quantcli
from quantcli import runtime
from quantcli.exact_json import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from quantcli.encodings import Json
    from quantcli.observations import Place, Subject, Value

VARIABLE: Final = "QUANT_CACHE_DIR"
MOST_BYTES: Final = 1 << 30
_FORMAT: Final = 1
_SUFFIX, _UNFINISHED = ".json", ".part"
_FORGOTTEN_SECONDS: Final = 3600.0  # a file that was begun so long ago is not being written any more


@dataclass(frozen=True, slots=True)
class Contents:
    """What lies in a cache folder."""

    folder: Path | None
    entries: int = 0
    bytes: int = 0
    most_bytes: int = MOST_BYTES


def folder() -> Path | None:
    """Return the folder of the cache; None where it is switched off or the user has no home.

    ``QUANT_CACHE_DIR`` names it, and switches it off where it is empty; else it is ``quantcli`` in ``%LOCALAPPDATA%``
    on Windows, and in ``$XDG_CACHE_HOME`` or ``~/.cache`` elsewhere.
    """
    own = os.environ.get(VARIABLE)
    if own is not None:
        return Path(own) if own else None
    around = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", "")
    if Path(around).is_absolute():  # the XDG base directory specification: anything else is to be ignored
        return Path(around) / "quantcli"
    try:
        return Path.home() / ".cache" / "quantcli"
    except RuntimeError:  # nobody knows where
        return None


def opened() -> tuple[Cache | None, str]:
    """Return the cache, and a note where there should be one and cannot be."""
    place = folder()
    if place is None:
        return None, ""
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        return None, f"nothing is cached: {place}: {error.strerror}; {VARIABLE} names another folder"
    if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
        return None, f"nothing is cached: {place} is not writable; {VARIABLE} names another folder"
    return Cache(place), ""


def contents() -> Contents:
    """Return what lies in the cache folder."""
    place = folder()
    sizes = [size for _, size, _ in _entries(place)] if place is not None else []
    return Contents(place, len(sizes), sum(sizes))


def clear() -> Contents:
    """Remove every entry, and nothing else; return what was there."""
    before = contents()
    for path, _, _ in _entries(before.folder) if before.folder is not None else ():
        path.unlink(missing_ok=True)
    for path in _unfinished(before.folder) if before.folder is not None else ():
        path.unlink(missing_ok=True)
    return before


class Cache:
    """A store in a folder that is there. What goes wrong with it costs time, never a conversion."""

    def __init__(self, place: Path, most_bytes: int = MOST_BYTES) -> None:
        self._folder = place
        self._most = most_bytes
        self._decides = [_FORMAT, quantcli.__version__, _sources(), runtime.version(), np.__version__, *_machine()]

    def find(self, place: Place, subjects: Collection[Subject]) -> Mapping[Subject, Value]:
        """Return those of the subjects that an entry holds."""
        path = self._path(place)
        held = _read(path)
        found: dict[Subject, Value] = {}
        for kind, tensor in subjects:
            if tensor in held.get(kind, {}):
                try:
                    found[kind, tensor] = from_json(held[kind][tensor])
                except ValueError:  # written by nobody we know: seen anew
                    return {}
        if found:
            _touch(path)
        return found

    def absent(self, place: Place, subjects: Sequence[Subject]) -> None:
        """What is not here is seen anew."""

    def keep(self, place: Place, seen: Mapping[Subject, Value]) -> None:
        """Add to the entry; the oldest others go where there is no room."""
        path = self._path(place)
        held = _read(path)  # anew: another process may have added to it
        for (kind, tensor), value in seen.items():
            held.setdefault(kind, {})[tensor] = to_json(value)
        body = json.dumps(held, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        entry = hashlib.sha256(body).hexdigest().encode() + b"\n" + body
        if len(entry) > self._most:
            return
        try:
            _replace(path, entry)
            _make_room(self._folder, self._most, path)
        except OSError:  # no room, or the folder went away: it is seen anew next time
            return

    def _path(self, place: Place) -> Path:
        key = json.dumps([*self._decides, place.model, *place.data])
        return self._folder / (hashlib.sha256(key.encode()).hexdigest() + _SUFFIX)


def _sources() -> str:
    """Return a digest of when the modules of this package changed: what they compute may have changed with them."""
    here = Path(__file__).resolve().parent
    known = sorted((p.relative_to(here).as_posix(), p.stat()) for p in here.rglob("*.py"))
    return hashlib.sha256(repr([(name, s.st_size, s.st_mtime_ns) for name, s in known]).encode()).hexdigest()


def _machine() -> list[str]:
    """Return what of the machine decides the last bit of a sum: the instructions that its CPU has."""
    found = np.show_config(mode="dicts")
    simd = found.get("SIMD Extensions", {}) if isinstance(found, dict) else {}
    return [platform.system(), platform.machine(), json.dumps(simd, sort_keys=True)]


def _read(path: Path) -> dict[str, dict[str, Json]]:
    """Return what an entry holds, by kind and tensor; nothing where it is not there or not whole."""
    try:
        digest, _, body = path.read_bytes().partition(b"\n")
    except OSError:
        return {}
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return {}
    held = json.loads(body)
    whole = isinstance(held, dict) and all(isinstance(tensors, dict) for tensors in held.values())
    return held if whole else {}


def _replace(path: Path, entry: bytes) -> None:
    handle, name = tempfile.mkstemp(suffix=_UNFINISHED, dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(entry)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _touch(path: Path) -> None:
    """Note that an entry was used: the least recently used goes first."""
    try:
        os.utime(path)
    except OSError:  # another process removed it
        return


def _make_room(place: Path, most: int, newest: Path) -> None:
    for path in _unfinished(place):
        known = _status(path)
        if known is not None and time.time() - known.st_mtime > _FORGOTTEN_SECONDS:
            path.unlink(missing_ok=True)
    entries = sorted(_entries(place), key=lambda e: (e[0] == newest, e[2], e[0].name))
    total = sum(size for _, size, _ in entries)
    for path, size, _ in entries:
        if total <= most:
            return
        path.unlink(missing_ok=True)
        total -= size


def _entries(place: Path) -> Iterator[tuple[Path, int, int]]:
    """Yield path, size and time of last use of every entry."""
    for path in sorted(place.glob("*" + _SUFFIX)):
        if len(path.stem) == hashlib.sha256().digest_size * 2 and not path.stem.strip("0123456789abcdef"):
            known = _status(path)
            if known is not None:
                yield path, known.st_size, known.st_mtime_ns


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat() if path.is_file() else None
    except OSError:  # another process removed it
        return None


def _unfinished(place: Path) -> list[Path]:
    return sorted(place.glob("tmp*" + _UNFINISHED))
