"""The I/O card: how to quantize a sample for integer inputs and read integer outputs, as numpy code to copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantcli.cli.sections import Section
from quantcli.cli.terminal import one_line

if TYPE_CHECKING:
    from quantcli.quant import QuantParams
    from quantcli.state import State


def iocard(state: State) -> Section:
    """Return types, scales and zero points of the boundary, and code that carries samples over it."""
    quantized = state.quantized
    if quantized is None or not quantized.boundary:
        return Section("inputs and outputs")
    graph = quantized.model.graph
    sides = [("input", [v.name for v in graph.inputs]), ("output", [v.name for v in graph.outputs])]
    known = quantized.boundary
    ports = [(side, str(n), known[str(n)]) for side, names in sides for n in names if n in known]
    rows = tuple((s, n, p.spec.dtype.name, repr(float(p.scale)), str(int(p.zero_point))) for s, n, p in ports)
    header = ("side", "name", "type", "scale", "zero point")
    return Section("inputs and outputs", rows, header, frozenset({4}), tuple(_code(s, n, p) for s, n, p in ports))


def _code(side: str, name: str, params: QuantParams) -> str:
    scale, zero, spec = float(params.scale), int(params.zero_point), params.spec
    comment = f"  # {side} {one_line(name)!r}"
    if side == "input":
        integers = f"np.rint(x / np.float32({scale!r})) {_signed(zero)}"
        return f"q = np.clip({integers}, {spec.qmin}, {spec.qmax}).astype(np.{spec.dtype.name}){comment}"
    return f"y = (q.astype(np.float32) {_signed(-zero)}) * np.float32({scale!r}){comment}"


def _signed(number: int) -> str:
    return f"- {-number}" if number < 0 else f"+ {number}"
