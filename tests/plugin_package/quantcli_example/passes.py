"""Sets the weights that hardly count to zero."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from quantcli.state import State, Tick


@dataclass(frozen=True)
class ZeroSmall:
    """Zeroes what is smaller than a share of the largest weight of its operator.

    Attributes:
        share: 0 to 1.
    """

    share: float = 0.01
    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}, expected 0 to 1")

    def __call__(self, state: State, tick: Tick) -> State:
        model, zeroed = state.model.clone(), 0  # states and their models are never changed, but replaced
        weights = [n.inputs[1] for n in model.graph if n.op_type in ("Conv", "Gemm", "MatMul")]
        for done, value in enumerate(weights, 1):
            if value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT:
                array = value.const_value.numpy()
                small = np.abs(array) < self.share * np.abs(array).max(initial=0)
                value.const_value = ir.Tensor(np.where(small, np.float32(0), array), name=value.name)
                zeroed += int(small.sum())
            tick(done, len(weights))
        return replace(state, model=model).noted(notes=(f"zero_small zeroed {zeroed} weights",))
