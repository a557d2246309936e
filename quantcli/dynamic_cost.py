"""Where quantizing activations at run time pays: shapes from which the integer operator is no slower than float.

Data, measured; knows no graph. Each row is a shape that was never slower than float, whatever lies above it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Shape:
    """A product of (rows, depth) by (depth, width); as a lower bound, ``weights`` is depth times width."""

    rows: int
    depth: int
    width: int
    weights: int = 0


# onnxruntime 1.31, one thread of a Zen 5 (AVX512-VNNI), uint8 x int8, DynamicQuantizeLinear included: float time over
# integer time. Quantizing x and scaling the result cost about 0.5 us and what grows with depth + width; the product
# itself is 3-4 times faster.
#   depth x width     rows 1     4    32   128
#     64 x   64         0.51  0.61  1.33  1.61
#     64 x  172         0.64  0.85  1.81  2.22
#    172 x   64         0.80  0.94  1.71  1.96
#     64 x  512         0.86  0.98  2.07  2.52
#    128 x    8         0.62  0.55  0.89  0.96
#      8 x  128         0.33  0.36  0.56  0.74
#     64 x   32         0.49  0.56  0.97  1.25
#    128 x  128         0.94  1.13  2.09  2.41
#    128 x  257         1.35  1.38  2.42  2.79
#    128 x  640         1.27  1.39  2.62  2.76
#    640 x  128         2.04  1.87  2.74  2.87
#    256 x  512         1.65  1.84  3.06  3.15
#   1024 x 1024         5.45  3.04  3.51  3.91
PRODUCTS: Final = (
    Shape(rows=1, depth=128, width=32, weights=32768),
    Shape(rows=4, depth=128, width=128),
    Shape(rows=32, depth=64, width=64),
)

# DynamicQuantizeLSTM against LSTM, batch 1; (input, hidden): 1 step, 50 steps.
#   (32, 32): 0.87, 0.88   (64, 32): 0.76, 0.97   (64, 64): 0.99, 1.44   (128, 64): 1.13, 1.64   (1, 128): 1.12, 1.62
#   (64, 96): 1.15, 1.58   (128, 128): 1.39, 1.91   (257, 128): 1.54, 2.10   (512, 512): 3.96, 3.31
RECURRENT_WEIGHTS: Final = 49152  # smallest number of weights, of input and recurrence together, in one direction


def pays(shape: Shape) -> bool:
    """Tell whether the product is no slower with activations quantized at run time; 0 rows are an unknown number."""
    return any(
        max(shape.rows, 1) >= least.rows
        and shape.depth >= least.depth
        and shape.width >= least.width
        and shape.depth * shape.width >= least.weights
        for least in PRODUCTS
    )


def recurrent_pays(weights: int) -> bool:
    """Tell whether an LSTM with so many weights per direction is no slower with its state quantized at each step."""
    return weights >= RECURRENT_WEIGHTS
