"""What normalizations compute: solved for on samples of a cone in float64, with axes, epsilon, scale and bias."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from quantcli.cones import Cone, computed, reduced_axes
from quantcli.meaning import Meaning, Row

if TYPE_CHECKING:
    from collections.abc import Iterator

Floats = npt.NDArray[np.float64]
Middle = Callable[[Floats, tuple[int, ...]], Floats]

EXACT: Final = 3e-7  # relative: constants are float32, and sqrt(2) rounded to it is 2e-8 off
_FEWEST: Final = 2  # values that are normalized together; one alone shows no scale
_LARGEST_EPSILON: Final = 0.1


def softmax(cone: Cone, row: Row) -> Meaning | None:
    """Find ``exp(x) / sum(exp(x))`` over one axis, whatever was taken off x before."""
    for sample, axes in _reducing(cone):
        found = computed(cone, sample)
        raised = np.exp(sample - sample.max(axis=axes, keepdims=True))
        if len(axes) == 1 and found is not None and found.shape == sample.shape:
            expected = raised / raised.sum(axis=axes, keepdims=True)
            return Meaning(cone, row, {"axis": axes[0]}, axes) if alike(found, expected, 1.0) else None
    return None


def unit_length(cone: Cone, row: Row) -> Meaning | None:
    """Find ``x / ||x||``, whatever guards it against zero."""
    for sample, axes in _reducing(cone):
        found = computed(cone, sample)
        length = np.sqrt(np.square(sample).sum(axis=axes, keepdims=True))
        if len(axes) == 1 and found is not None and found.shape == sample.shape:
            if not np.allclose(found, sample / length, rtol=1e-4, atol=0):
                return None
            return Meaning(cone, row, {"axis": axes[0], "p": 2}, axes)
    return None


def mean_square(cone: Cone, row: Row) -> Meaning | None:
    """Find a normalization by the mean of squares."""
    return _normalized(cone, row, lambda x, _: np.zeros_like(x))


def deviation(cone: Cone, row: Row) -> Meaning | None:
    """Find a normalization by the mean and the variance."""
    return _normalized(cone, row, lambda x, axes: np.broadcast_to(x.mean(axis=axes, keepdims=True), x.shape))


def _normalized(cone: Cone, row: Row, middle: Middle) -> Meaning | None:
    """Find ``(x - m) / sqrt(mean((x - m)^2) + epsilon) * scale + bias``, epsilon being one of the cone's constants."""
    for sample, axes in _reducing(cone):
        if row.planes and (sample.ndim < 3 or axes != tuple(range(2, sample.ndim))):
            continue
        if math.prod(sample.shape[a] for a in axes) < _FEWEST:
            continue
        values, offset = computed(cone, sample), computed(cone, np.zeros_like(sample))
        if values is None or offset is None or values.shape != sample.shape:
            continue
        for epsilon in _epsilons(cone):
            standard = _standard(sample, middle, axes, epsilon)
            scale = _factor(values - offset, standard)
            if not scale.any():
                return None  # a constant: what it reads is of no account
            small = sample * math.sqrt(epsilon)  # so small that epsilon shows
            narrow, thin = computed(cone, small), _standard(small, middle, axes, epsilon)
            size = np.abs(scale) * 10 + np.abs(offset)
            if narrow is not None and alike(
                np.stack([values, narrow]), np.stack([standard, thin]) * scale + offset, size
            ):
                return _with_parameters(cone, row, axes, epsilon, scale, offset)
    return None


def _standard(x: Floats, middle: Middle, axes: tuple[int, ...], epsilon: float) -> Floats:
    centred = x - middle(x, axes)
    return np.asarray(centred / np.sqrt(np.square(centred).mean(axis=axes, keepdims=True) + epsilon))


def _factor(values: Floats, standard: Floats) -> Floats:
    """Return the scale of every element as the sample shows it, from the row where the division is safest."""
    first = np.argmax(np.abs(standard[:1]) + np.zeros_like(standard[:1]), axis=0, keepdims=True)
    best = np.take_along_axis(standard[:1], first, axis=0)
    return np.asarray(np.broadcast_to(np.take_along_axis(values[:1], first, axis=0) / best, standard.shape))


def _epsilons(cone: Cone) -> list[float]:
    scalars = {float(c.item()) for c in cone.constants() if c.size == 1 and c.dtype.kind == "f"}
    return sorted(c for c in scalars if 0.0 < c < _LARGEST_EPSILON)


def _with_parameters(  # noqa: PLR0913, PLR0917 - the parameters of a normalization
    cone: Cone, row: Row, axes: tuple[int, ...], epsilon: float, scale: Floats, bias: Floats
) -> Meaning | None:
    parameters = []
    for wide, neutral in ((scale, 1.0), (bias, 0.0)):
        narrow = wide[tuple(slice(None) if a in _varying(row, axes) else slice(1) for a in range(wide.ndim))]
        if not np.allclose(wide, narrow, rtol=EXACT, atol=0):
            return None
        narrow = _of_model(narrow, cone)
        plain = np.allclose(narrow, neutral, rtol=EXACT, atol=0)
        parameters.append(None if plain else narrow.astype(np.float32))
    attributes: dict[str, float | int | str] = {"epsilon": epsilon}
    if not row.planes:
        attributes["axis"] = axes[0] - wide.ndim
    elif wide.ndim == 3 and all(p is None for p in parameters):
        return None  # without either it is a LayerNormalization just as well, of a sequence
    if parameters[1] is not None and not row.takes_bias:
        return None
    return Meaning(cone, row, attributes, axes, *parameters)


def _of_model(parameter: Floats, cone: Cone) -> Floats:
    """Return a parameter with one value along axes where no constant has a size: the sample's is not the model's."""
    constants = [c for c in cone.constants() if c.size > 1]
    for axis in range(parameter.ndim):
        place = axis - parameter.ndim
        if not any(c.ndim >= -place and c.shape[place] > 1 for c in constants):
            parameter = parameter.take([0], axis)
    return parameter


def _varying(row: Row, axes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes along which scale and bias may vary."""
    return (1,) if row.planes else axes


def _reducing(cone: Cone) -> Iterator[tuple[Floats, tuple[int, ...]]]:
    """Yield a sample of the source and the axes that the cone reduces, where these are one set."""
    shape = cone.source.shape
    if shape is None or not len(shape):
        return
    axes = reduced_axes(cone, len(shape))
    sizes = _sizes(cone, list(shape), axes)
    if len(axes) != 1 or sizes is None or math.prod(sizes) > 1 << 20:
        return
    yield np.random.default_rng(0).normal(0.5, 1.0, sizes), next(iter(axes))


def _sizes(cone: Cone, shape: list[object], axes: set[tuple[int, ...]]) -> list[int] | None:
    """Return a small shape that the constants of the cone fit: their sizes along the axes along which they vary."""
    sizes: list[int] = []
    reduced = {a for group in axes for a in group}
    constants = [c for c in cone.constants() if c.size > 1]
    if any(c.ndim > len(shape) for c in constants):
        return None
    for axis, declared in enumerate(shape):
        place = axis - len(shape)
        along = {c.shape[place] for c in constants if c.ndim >= -place} - {1}
        if len(along) > 1:
            return None
        fixed = isinstance(declared, int) and axis in reduced and declared < 8
        sizes.append(along.pop() if along else declared if fixed else (8 if axis in reduced else 2))  # type: ignore[arg-type]
    return sizes


def alike(found: Floats, expected: Floats, size: Floats | float) -> bool:
    """Tell whether values are those expected, to within the rounding of float32 constants."""
    return bool(np.all(np.abs(found - expected) <= EXACT * size))  # false where one is no number
