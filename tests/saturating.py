"""Products of bytes as x86 CPUs without VNNI compute them: pairs along K are added in 16 bits and saturate. numpy only.

``vpmaddubsw`` multiplies uint8 by int8, adds neighbours and clips to int16; its sums are added in 32 bits.
Also runs emitted models under that arithmetic, with ONNX's reference evaluator for everything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from integer_reference import requantize
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    from onnx import ModelProto

    Array = npt.NDArray[np.generic]
    Ints = npt.NDArray[np.integer]


def exact_sums(x: Ints, w: Ints) -> Ints:
    """(M, K) by (K, N), nothing lost."""
    return x.astype(np.int64) @ w.astype(np.int64)


def saturating_sums(x: Ints, w: Ints) -> Ints:
    """(M, K) by (K, N); the left operand uint8, the right one int8. Other types are multiplied exactly."""
    if (x.dtype, w.dtype) != (np.uint8, np.int8):
        return exact_sums(x, w)
    odd = x.shape[1] % 2
    x, w = (np.pad(a.astype(np.int64), p) for a, p in ((x, ((0, 0), (0, odd))), (w, ((0, odd), (0, 0)))))
    pairs = x[:, ::2, None] * w[None, ::2] + x[:, 1::2, None] * w[None, 1::2]
    return np.clip(pairs, -(2**15), 2**15 - 1).sum(axis=1)


def exact_dots(x: Ints, w: Ints) -> Ints:
    """(M, K) by (M, K), row by row, nothing lost."""
    return (x.astype(np.int64) * w.astype(np.int64)).sum(axis=1)


def saturating_dots(x: Ints, w: Ints) -> Ints:
    """(M, K) by (M, K), row by row; the left operand uint8, the right one int8. Other types are multiplied exactly."""
    if (x.dtype, w.dtype) != (np.uint8, np.int8):
        return exact_dots(x, w)
    products = np.pad(x.astype(np.int64) * w.astype(np.int64), ((0, 0), (0, x.shape[1] % 2)))
    return np.clip(products[:, ::2] + products[:, 1::2], -(2**15), 2**15 - 1).sum(axis=1)


def outputs(model: ModelProto, feed: Mapping[str, Array], *, saturating: bool) -> list[Array]:
    """Run an emitted model of integer operators, its products added in 16 bits or exactly."""
    sums = saturating_sums if saturating else exact_sums
    return ReferenceEvaluator(model, new_ops=[_named(op, sums) for op in (_QLinearConv, _QGemm, _MatMulInteger)]).run(
        None, dict(feed)
    )


def _named(base: type, sums: object) -> type:
    return type(base.__name__.lstrip("_"), (base,), {"op_domain": base.op_domain, "sums": staticmethod(sums)})


class _MatMulInteger(OpRun):
    op_domain = ""

    def _run(self, x, w, x_zero=0, w_zero=0):
        return (_centred(self.sums, x, w, x_zero, w_zero).astype(np.int32),)


class _QGemm(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x, x_scale, x_zero, w, w_scale, w_zero, bias, y_scale, y_zero, transB=0):  # noqa: PLR0917, N803
        total = _centred(self.sums, x, w.T if transB else w, x_zero, w_zero) + bias
        return (_scaled(total, (x_scale, w_scale, y_scale), y_zero),)


class _QLinearConv(OpRun):
    op_domain = ""

    def _run(self, x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias=None, **attributes):  # noqa: PLR0917
        groups = attributes["group"] or 1
        patches = [_patches(part, int(x_zero), w.shape[2:], attributes) for part in np.split(x, groups, axis=1)]
        kernels = [part.transpose(2, 3, 1, 0).reshape(-1, len(part)) for part in np.split(w, groups)]
        zeros = np.split(np.broadcast_to(w_zero, len(w)), groups)
        depthwise = w.shape[1] == 1 and groups == len(w)
        sums = exact_sums if depthwise else self.sums  # onnxruntime adds those in 32 bits
        found = [
            _centred(sums, p, k, x_zero, z) for p, k, z in zip((p for p, _ in patches), kernels, zeros, strict=True)
        ]
        total = np.concatenate(found, axis=1) + (0 if bias is None else bias)
        y = _scaled(total, (x_scale, w_scale, y_scale), y_zero)
        return (y.reshape(len(x), *patches[0][1], -1).transpose(0, 3, 1, 2),)


def _centred(sums, x, w, x_zero, w_zero):
    """Take the zero points off the sums of bytes as they are stored, as the kernels do."""
    x_zero, w_zero = np.int64(x_zero), np.asarray(w_zero, np.int64)
    rows, columns = x.astype(np.int64).sum(axis=1, keepdims=True), w.astype(np.int64).sum(axis=0, keepdims=True)
    return sums(x, w) - x_zero * columns - w_zero * rows + x_zero * w_zero * x.shape[1]


def _scaled(total, scales, y_zero):
    return requantize(total.astype(np.int64), *scales, y_zero, y_zero.dtype)


def _patches(x, zero, kernel, attributes):
    """Return what a kernel sees at each place, (N * H * W, kh * kw * C), and (H, W)."""
    top, left, bottom, right = attributes["pads"] or (0, 0, 0, 0)
    rows, columns = attributes["strides"] or (1, 1)
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=zero)
    seen = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))[:, :, ::rows, ::columns]
    return seen.transpose(0, 2, 3, 4, 5, 1).reshape(-1, seen.shape[1] * kernel[0] * kernel[1]), seen.shape[2:4]
