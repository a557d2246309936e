"""Functions of one variable in float64: what a table of a pointwise region is filled with. Numpy only.

One entry per ONNX operator; each takes the node's attributes by name and its operands.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Floats = npt.NDArray[np.float64]

_SELU_ALPHA: Final = 1.67326319217681884765625  # ONNX Selu-6
_SELU_GAMMA: Final = 1.05070102214813232421875


def evaluate(op_type: str, attributes: Mapping[str, float | str], operands: list[Floats]) -> Floats:
    """Apply an operator of ``FUNCTIONS``; what is infinite or no number stays so."""
    with np.errstate(all="ignore"):
        return np.asarray(FUNCTIONS[op_type](attributes, *operands), np.float64)


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


def _softplus(x: Floats) -> Floats:
    return np.asarray(np.logaddexp(x, 0))


def _erf(x: Floats) -> Floats:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x))


def _number(attributes: Mapping[str, float | str], name: str, default: float) -> float:
    return float(attributes.get(name, default))


def _gelu(attributes: Mapping[str, float | str], x: Floats) -> Floats:
    if attributes.get("approximate") == "tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))


def _elu(attributes: Mapping[str, float | str], x: Floats) -> Floats:
    return np.where(x > 0, x, _number(attributes, "alpha", 1) * np.expm1(x))


def _selu(attributes: Mapping[str, float | str], x: Floats) -> Floats:
    alpha, gamma = _number(attributes, "alpha", _SELU_ALPHA), _number(attributes, "gamma", _SELU_GAMMA)
    return gamma * np.where(x > 0, x, alpha * np.expm1(x))


def _celu(attributes: Mapping[str, float | str], x: Floats) -> Floats:
    alpha = _number(attributes, "alpha", 1)
    return np.asarray(np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(x / alpha)))


def _hard_sigmoid(attributes: Mapping[str, float | str], x: Floats) -> Floats:
    return np.clip(_number(attributes, "alpha", 0.2) * x + _number(attributes, "beta", 0.5), 0, 1)


def _clip(attributes: Mapping[str, float | str], x: Floats, *limits: Floats) -> Floats:
    low = limits[0] if limits else _number(attributes, "min", -np.inf)
    high = limits[1] if len(limits) > 1 else _number(attributes, "max", np.inf)
    return np.minimum(np.maximum(x, low), high)


def _leaky(slope: float | Floats, x: Floats) -> Floats:
    return np.where(x < 0, slope * x, x)


def _thresholded(attributes: Mapping[str, float | str], x: Floats) -> Floats:
    return np.where(x > _number(attributes, "alpha", 1), x, 0)


FUNCTIONS: Final[dict[str, Callable[..., Floats]]] = {
    "Abs": lambda _, x: np.abs(x),
    "Add": lambda _, a, b: a + b,
    "Ceil": lambda _, x: np.ceil(x),
    "Celu": _celu,
    "Clip": _clip,
    "Cos": lambda _, x: np.cos(x),
    "Div": lambda _, a, b: a / b,
    "Elu": _elu,
    "Erf": lambda _, x: _erf(x),
    "Exp": lambda _, x: np.exp(x),
    "Floor": lambda _, x: np.floor(x),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda _, x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Identity": lambda _, x: x,
    "LeakyRelu": lambda a, x: _leaky(_number(a, "alpha", 0.01), x),
    "Log": lambda _, x: np.log(x),
    "Max": lambda _, *xs: np.maximum.reduce(np.broadcast_arrays(*xs)),
    "Min": lambda _, *xs: np.minimum.reduce(np.broadcast_arrays(*xs)),
    "Mish": lambda _, x: x * np.tanh(_softplus(x)),
    "Mul": lambda _, a, b: a * b,
    "Neg": lambda _, x: -x,
    "PRelu": lambda _, x, slope: _leaky(slope, x),
    "Pow": lambda _, a, b: np.power(a, b),
    "Reciprocal": lambda _, x: 1 / x,
    "Relu": lambda _, x: np.maximum(x, 0),
    "Round": lambda _, x: np.rint(x),
    "Selu": _selu,
    "Sigmoid": lambda _, x: _sigmoid(x),
    "Sign": lambda _, x: np.sign(x),
    "Sin": lambda _, x: np.sin(x),
    "Softplus": lambda _, x: _softplus(x),
    "Softsign": lambda _, x: x / (1 + np.abs(x)),
    "Sqrt": lambda _, x: np.sqrt(x),
    "Sub": lambda _, a, b: a - b,
    "Swish": lambda a, x: x * _sigmoid(_number(a, "alpha", 1) * x),
    "Tanh": lambda _, x: np.tanh(x),
    "ThresholdedRelu": _thresholded,
}
