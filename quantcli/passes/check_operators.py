"""Checks the prepared float model operator by operator, so that a later loss can be told from an operator problem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from quantcli import graph, runtime, widening
from quantcli.errors import InternalError
from quantcli.metrics import Comparison

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.state import State, Tick

    Arrays = Mapping[str, npt.NDArray[np.generic]]

ENOUGH_DB: Final = 60.0  # kernels of different optimization levels differ by rounding; a wrong one by much more
_NEGLIGIBLE: Final = 1e-5


@dataclass(frozen=True, slots=True)
class CheckOperators:
    """Runs both models without optimizations and compares every tensor that they have in common.

    Then compares the prepared model without and with onnxruntime's optimizations at its outputs.
    """

    samples: int = 2
    whole_model: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"samples"})
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Compare; raise for the first operator whose result differs."""
        if state.data is None:
            return state
        original, _counts = widening.widened(state.reference)
        common = _common(original, state.model)
        outputs = [graph.name_of(v) for v in state.model.graph.outputs]
        sessions = [
            runtime.load(m, threads=state.threads, optimize=False, outputs=[*dict.fromkeys([*common, *outputs])])
            for m in (original, state.model)
        ]
        optimized = runtime.load(state.model, threads=state.threads)
        operators = {n: Comparison() for n in common}
        fused = {n: Comparison() for n in outputs}
        feeds = state.data.take(self.samples)
        for done, feed in enumerate(feeds, 1):
            before, after = (s.run(feed) for s in sessions)
            operators = _added(operators, before, after)
            fused = _added(fused, after, optimized.run(feed))
            tick(done, len(feeds))
        _refuse(operators, state.model, "preparing the model changed")
        _refuse(fused, state.model, "onnxruntime's optimizations change")
        note = f"{len(common)} tensors compared with the original model, operator by operator: all agree"
        return state.noted(notes=(note,))


def _common(original: ir.Model, prepared: ir.Model) -> list[str]:
    """Return the float tensors that operators of both models compute, in the order of the prepared one."""
    there = {v.name for node in original.graph for v in node.outputs}
    made = [v for node in prepared.graph for v in node.outputs if v.name in there]
    return [graph.name_of(v) for v in made if v.dtype is None or v.dtype.is_floating_point()]


def _added(sums: Mapping[str, Comparison], expected: Arrays, found: Arrays) -> dict[str, Comparison]:
    return {n: c.add(expected[n], found[n]) if _is_real(expected[n]) else c for n, c in sums.items()}


def _is_real(value: object) -> bool:
    """Tell whether a result is a tensor of real numbers; there are sequences too."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _refuse(sums: Mapping[str, Comparison], model: ir.Model, what: str) -> None:
    values = graph.named_values(model.graph)
    for name, seen in sums.items():
        if seen.sqnr_db < ENOUGH_DB and seen.largest > _NEGLIGIBLE:
            producer = values[name].producer()
            made = f" of {producer.op_type} {producer.name!r}" if producer is not None else ""
            raise InternalError(
                f"{what} tensor {name!r}{made}: {seen.sqnr_db:.1f} dB, largest difference {seen.largest:.3g}",
                hint="switch the preparation off step by step, e.g. --set passes.fold_batch_norm=off, and report it",
            )
