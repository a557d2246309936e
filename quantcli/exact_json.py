"""What was observed, as JSON that can be read, and back bit for bit: numbers, arrays, and the values of calibration.

Floats are written with as many digits as tell them apart; those that JSON cannot say are text. Opens no file.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, fields, is_dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli.equalization import ChannelStats
from quantcli.quant import Histogram, TensorStats
from quantcli.report import FeedStats

if TYPE_CHECKING:
    from quantcli.encodings import Json

_KINDS: Final = {kind.__name__: kind for kind in (TensorStats, Histogram, FeedStats, ChannelStats)}
_KIND, _FLOAT, _ARRAY = "is", "float", "array"  # keys that say what a mapping stands for
_NOT_FINITE: Final = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def to_json(value: object) -> Json:
    """Return a value as JSON.

    Raises:
        TypeError: It is of a type that is not known here.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_FLOAT: str(value)}
    if isinstance(value, np.ndarray):
        return {_ARRAY: value.dtype.name, "shape": list(value.shape), "values": _elements(value)}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    if isinstance(value, dict):
        return {"entries": {str(k): to_json(v) for k, v in value.items()}}
    if is_dataclass(value) and type(value).__name__ in _KINDS:
        said = {f.name: getattr(value, f.name) for f in fields(value) if not _is_default(f.default, value, f.name)}
        return {_KIND: type(value).__name__, **{name: to_json(v) for name, v in said.items()}}
    raise TypeError(f"a {type(value).__name__} cannot be written down as an observation")


def from_json(written: Json) -> object:
    """Return the value that ``to_json`` wrote; tuples come back as lists.

    Raises:
        ValueError: It is nothing that ``to_json`` writes.
    """
    if isinstance(written, list):
        return [from_json(v) for v in written]
    if not isinstance(written, dict):
        return written
    try:
        return _restored(written)
    except (KeyError, TypeError, OverflowError, AttributeError) as error:
        raise ValueError(f"no observation: {str(written)[:60]}") from error


def _restored(written: dict[str, Json]) -> object:
    if _FLOAT in written:
        return _NOT_FINITE[str(written[_FLOAT])]
    if _ARRAY in written:
        return _array(written)
    if "entries" in written:
        entries = written["entries"]
        return {k: from_json(v) for k, v in entries.items()}  # type: ignore[union-attr]
    kind = _KINDS[str(written[_KIND])]
    return kind(**{k: from_json(v) for k, v in written.items() if k != _KIND})  # type: ignore[arg-type]


def _elements(array: np.ndarray) -> list[Json]:
    flat = array.ravel().tolist()
    return flat if array.dtype.kind != "f" or np.isfinite(array).all() else [to_json(v) for v in flat]


def _array(written: dict[str, Json]) -> np.ndarray:
    values, shape = written["values"], written["shape"]
    if not (isinstance(values, list) and isinstance(shape, list)):
        raise TypeError("values and shape of an array are lists")
    dtype = np.dtype(str(written[_ARRAY]))
    if dtype.kind not in "fiub":
        raise TypeError(f"arrays of {dtype} are not observed")
    return np.array([from_json(v) for v in values], dtype).reshape([int(str(n)) for n in shape])


def _is_default(default: object, value: object, name: str) -> bool:
    found = getattr(value, name)
    return default is not MISSING and type(found) is type(default) and found == default
