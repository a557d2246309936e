"""The number types of quantized tensors: bits, range, numpy storage, ONNX name.

Knows nothing of scales, tensors or graphs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_ONNX_NUMBERS: Final = {"uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "uint4": 21, "int4": 22}


@dataclass(frozen=True, slots=True)
class DType:
    """An integer type of ``bits`` bits, stored in numpy as the smallest type that holds it."""

    name: str
    bits: int
    signed: bool

    @property
    def qmin(self) -> int:
        """The smallest integer of the type."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def qmax(self) -> int:
        """The largest integer of the type."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def storage(self) -> npt.DTypeLike:
        """The numpy type that holds one value."""
        return f"{'' if self.signed else 'u'}int{max(self.bits, 8)}"

    @property
    def onnx(self) -> int:
        """The number of the type in ``onnx.TensorProto.DataType``."""
        return _ONNX_NUMBERS[self.name]

    def holds(self, values: npt.NDArray[np.integer | np.floating]) -> bool:
        """Tell whether every value lies in the range of the type."""
        return not values.size or bool(values.min() >= self.qmin and values.max() <= self.qmax)


INT4: Final = DType("int4", 4, signed=True)
UINT4: Final = DType("uint4", 4, signed=False)
INT8: Final = DType("int8", 8, signed=True)
UINT8: Final = DType("uint8", 8, signed=False)
INT16: Final = DType("int16", 16, signed=True)
UINT16: Final = DType("uint16", 16, signed=False)
INT32: Final = DType("int32", 32, signed=True)
INT64: Final = DType("int64", 64, signed=True)

BY_NAME: Final = {t.name: t for t in (INT4, UINT4, INT8, UINT8, INT16, UINT16, INT32, INT64)}
