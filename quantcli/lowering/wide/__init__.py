"""Integer operators on int16 activations and int8 weights, exact: sums in integers, one rounding in float64.

onnxruntime has no 16-bit kernels; int16 tensors are taken apart into two planes of bytes, for which it has.
"""
