"""What the model takes, and whether one sample fits it.

Knows arrays and shapes; must not know files, YAML or where a sample is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quantcli.errors import DatasetError, did_you_mean

Feed = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A graph input: its name, numpy dtype and shape.

    Attributes:
        name: Name of the graph input.
        dtype: Element type; ``np.dtype(object)`` for strings.
        shape: An int for a fixed dimension, a symbol or None for a free one; None when the rank is unknown.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int | str | None, ...] | None


def is_text(dtype: np.dtype) -> bool:
    """Tell whether a dtype is that of strings, as numpy or as onnxruntime has them."""
    return dtype.kind in "OSU"


def takes(dtype: np.dtype, spec: InputSpec) -> bool:
    """Tell whether samples of a dtype may be fed to an input without being asked for a conversion.

    Its own type is; all kinds of text are text; and where it takes floats other than float32, which samples seldom come
    in, all numbers are.
    """
    if is_text(dtype) or is_text(spec.dtype):
        return is_text(dtype) and is_text(spec.dtype)
    other = spec.dtype.kind == "f" and spec.dtype != np.float32
    return dtype.newbyteorder("=") == spec.dtype or (other and dtype.kind in "fiu")


def require_names(given: Mapping[str, str], inputs: Sequence[InputSpec], where: str, *, advice: str = "") -> None:
    """Require the given names to be the graph inputs, each of them and no other.

    Args:
        given: Where each name stands, by name.
        inputs: The graph inputs.
        where: Where a missing name should have been.
        advice: What else to do about it.

    Raises:
        DatasetError: A name is missing, or is not an input.
    """
    known = [spec.name for spec in inputs]
    missing = [name for name in known if name not in given]
    hint = f"The model takes {_quoted(known)}; feed each of them and nothing else.{advice}"
    for name, place in given.items():
        if name not in known:
            near = did_you_mean(str(name), missing or known)
            raise DatasetError(f"{place}: {name!r} is not an input, expected {_quoted(known)}{near}", hint=hint)
    if missing:
        raise DatasetError(
            f"{where}: input {_quoted(missing)} is missing, expected {_quoted(known)}, got {_quoted(given)}", hint=hint
        )


def conform(array: np.ndarray, spec: InputSpec, where: str) -> np.ndarray:
    """Return the sample as the input takes it, with a batch axis added when only that is missing.

    Args:
        array: One sample.
        spec: The input that it is fed to.
        where: The sample's number and file, for the message.

    Raises:
        DatasetError: The dtype, the rank or a fixed dimension differs, or a value is NaN or infinite.
    """
    if not array.dtype.isnative or not takes(array.dtype, spec):
        raise dtype_mismatch(array.dtype, spec, where)
    array = _as_text(array, spec, where) if is_text(spec.dtype) else _as_numbers(array, spec)
    require_finite(array, spec, where)
    return array.reshape(fit_shape(array.shape, spec, where))


def dtype_mismatch(dtype: np.dtype, spec: InputSpec, where: str) -> DatasetError:
    """Return the error for a sample of another dtype than the input's."""
    order = "" if dtype.isnative else " in foreign byte order"
    return DatasetError(
        f"input {spec.name!r}, {where}: dtype {dtype.name}{order}, expected {type_name(spec)}",
        hint=f"Save or yield {spec.dtype.name}, or add `dtype: {spec.dtype.name}` to an npz input of a YAML spec."
        if not is_text(spec.dtype)
        else "Save or yield text: np.asarray(x, dtype=str).",
    )


def type_name(spec: InputSpec) -> str:
    """Return the type of an input for a message."""
    return "strings" if is_text(spec.dtype) else spec.dtype.name


def fit_shape(shape: tuple[int, ...], spec: InputSpec, where: str) -> tuple[int, ...]:
    """Return the shape that is fed: the sample's own, or with a batch axis of 1 in front.

    Raises:
        DatasetError: The rank or a fixed dimension differs.
    """
    if spec.shape is None:
        return shape
    if len(shape) == len(spec.shape) - 1:
        _require_batch_of_one(shape, spec, where)
        shape = (1, *shape)
    if len(shape) != len(spec.shape):
        raise DatasetError(
            f"input {spec.name!r}, {where}: rank {len(shape)} with shape {shape_text(shape)}, "
            f"expected rank {len(spec.shape)} as {shape_text(spec.shape)}",
            hint="A sample has the input's rank, or one less: then the batch axis is added.",
        )
    _require_dimensions(shape, spec, spec.shape, where)
    return shape


def require_finite(array: np.ndarray, spec: InputSpec, where: str) -> None:
    """Refuse NaN and infinity, which would spoil every range that is measured.

    An additive attention mask, 0 where a score counts and -infinity where none does, is what it has to be.

    Raises:
        DatasetError: A value is not finite.
    """
    if array.dtype.kind in "biuO":
        return
    # ml_dtypes such as bfloat16 have kind V and no isfinite in older releases
    finite = np.isfinite(array.astype(np.float32) if array.dtype.kind == "V" else array)
    if finite.all() or _is_mask(array, finite):
        return
    first = tuple(int(i) for i in np.argwhere(~finite)[0])
    raise DatasetError(
        f"input {spec.name!r}, {where}: {array[first]} at {shape_text(first)}, "
        f"{finite.size - int(finite.sum())} of {finite.size} values; expected finite numbers",
        hint="Remove the sample, or look at how it was made: a division by zero, an overflow in float16.",
    )


def _is_mask(array: np.ndarray, finite: np.ndarray) -> bool:
    return bool(finite.any() and not array[finite].any() and np.isneginf(array[~finite].astype(np.float32)).all())


def shape_text(shape: Sequence[int | str | None]) -> str:
    """Return a shape for a message: ``[batch, 3, ?]``."""
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _as_numbers(array: np.ndarray, spec: InputSpec) -> np.ndarray:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
        return array.astype(spec.dtype, copy=False)


def _as_text(array: np.ndarray, spec: InputSpec, where: str) -> np.ndarray:
    """Return an array of Python strings, as onnxruntime takes them; bytes are UTF-8."""
    items = [_text(item, spec, where) for item in array.ravel().tolist()]
    found = np.empty(len(items), object)
    found[:] = items
    return found.reshape(array.shape)


def _text(item: object, spec: InputSpec, where: str) -> str:
    try:
        text = item.decode() if isinstance(item, bytes) else item
    except UnicodeDecodeError:
        text = None
    if not isinstance(text, str):
        raise DatasetError(
            f"input {spec.name!r}, {where}: {item!r}, expected strings", hint="Yield np.asarray(x, dtype=str)."
        )
    return text


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names) or "nothing"


def _require_batch_of_one(shape: tuple[int, ...], spec: InputSpec, where: str) -> None:
    batch = spec.shape[0] if spec.shape else None
    if isinstance(batch, int) and batch != 1:
        whole = shape_text((batch, *shape))
        raise DatasetError(
            f"input {spec.name!r}, {where}: shape {shape_text(shape)} is one element of a batch, "
            f"expected the whole batch, fixed at {batch}: {whole}",
            hint=f"Store samples of shape {whole}, or export the model with a batch of 1 or a free one.",
        )


def _require_dimensions(
    shape: tuple[int, ...], spec: InputSpec, expected: tuple[int | str | None, ...], where: str
) -> None:
    for axis, (size, fixed) in enumerate(zip(shape, expected, strict=True)):
        if isinstance(fixed, int) and size != fixed:
            raise DatasetError(
                f"input {spec.name!r}, {where}: shape {shape_text(shape)}, expected {shape_text(expected)}: "
                f"axis {axis} is {size}, fixed at {fixed}",
                hint="Use `resize:` for images and `layout:` when the axes are in another order.",
            )
