"""What ONNX says of float16: operators and operands that are float32 by definition, attributes that name a type.

The rows are those of ONNX's operator schemas of every opset; a test compares them.
"""

from __future__ import annotations

from typing import Final

NEVER: Final = 1 << 30

# Operator -> the first opset in which its tensors may be float16.
SINCE: Final = {
    "Celu": 28,
    "CumSum": 14,
    "DynamicQuantizeLinear": NEVER,
    "IsInf": 20,
    "NonMaxSuppression": NEVER,
    "QLinearConv": NEVER,
    "QLinearMatMul": NEVER,
    "Range": 27,
    "TfIdfVectorizer": NEVER,
    # allowed from opset 19 on, but their scales say what the integers mean
    "DequantizeLinear": NEVER,
    "QuantizeLinear": NEVER,
    # sources whose type an attribute names: the runtime has no float16 kernels, and nothing to insert a Cast before
    "Bernoulli": NEVER,
    "BlackmanWindow": NEVER,
    "EyeLike": NEVER,
    "HammingWindow": NEVER,
    "HannWindow": NEVER,
    "MelWeightMatrix": NEVER,
    "Multinomial": NEVER,
    "RandomNormal": NEVER,
    "RandomNormalLike": NEVER,
    "RandomUniform": NEVER,
    "RandomUniformLike": NEVER,
}

# Operator -> operands, or results, that are float32 whatever the others are; and must stay plain constants.
FLOAT32_OPERANDS: Final = {
    "DequantizeLinear": frozenset({1}),
    "QLinearConv": frozenset({1, 4, 6}),
    "QLinearMatMul": frozenset({1, 4, 6}),
    "QuantizeLinear": frozenset({1}),
    "Resize": frozenset({1, 2}),
    "Upsample": frozenset({1}),
}
FLOAT32_RESULTS: Final = {"LayerNormalization": frozenset({1, 2})}

TYPE_ATTRIBUTE: Final = {"Cast": "to"}
TENSOR_ATTRIBUTE: Final = {"ConstantOfShape": "value"}

# Arithmetic on positions: what comes from integers needs more than 11 bits until it is bounded or becomes data.
BOUNDED: Final = frozenset({"Sin", "Cos"})
LEARNED: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "LSTM", "GRU", "RNN"})
