"""What a group of operators may stand for: one operator with its parameters, found by a row of a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import numpy.typing as npt

    from quantcli.cones import Cone

    Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Meaning:
    """The one operator that a cone computes.

    Attributes:
        cone: The operators that spell it.
        row: The function.
        attributes: Of the operator.
        axes: That it reduces, not negative, ascending.
        scale: Factor by the axis along which it varies, float32; None where there is none.
        bias: Likewise, what is added.
    """

    cone: Cone
    row: Row
    attributes: Mapping[str, float | int | str] = field(default_factory=dict)
    axes: tuple[int, ...] = ()
    scale: npt.NDArray[np.float32] | None = None
    bias: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One function.

    Attributes:
        operator: Its operator in the ONNX domain.
        since: The opset that brought the operator, in the form that is written here; None where onnxruntime computes it
            no faster than its spellings, and has no integer form of it.
        anchors: Types of operators of which every spelling has one.
        solve: Returns what a cone stands for, or None.
        reduces: Whether it takes means or sums: it stays float as one piece where it has no integer form.
        fused: Types of the operators of the spellings that onnxruntime fuses, in order; empty where it fuses none.
        planes: Whether scale and bias vary by channel, not along the axes that are reduced.
        takes_bias: Whether the operator adds one.
        last_axis: Whether onnxruntime is slower at the operator than at its spelling over any axis but the last.
    """

    operator: str
    since: int | None
    anchors: frozenset[str]
    solve: Callable[[Cone, Row], Meaning | None]
    reduces: bool = False
    fused: tuple[tuple[str, ...], ...] = ()
    planes: bool = False
    takes_bias: bool = True
    last_axis: bool = False
