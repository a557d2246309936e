"""Stores the weights as float16; computes in float32, or in float16 wherever an operator has that form."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as ir_passes

from quantcli import graph, half, patterns, runtime
from quantcli.errors import QualityError, RecipeError, did_you_mean
from quantcli.lowering import half_constants, half_regions
from quantcli.lowering.half_graph import HalfGraph
from quantcli.report import FLOAT, STORED, UNTOUCHED, Entry
from quantcli.state import Quantized

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from quantcli.lowering.half_constants import Constants
    from quantcli.state import State, Tick

    Arrays = Mapping[str, npt.NDArray[np.generic]]

COMPUTE: Final = ("float32", "float16")
WIDENED: Final = "float16 weights, computed in float32"
HALF: Final = "computed in float16"
_SHOWN: Final = 3  # constants in one reason


@dataclass(frozen=True, slots=True)
class EmitFloat16:
    """Emits the prepared model with float16 constants.

    Attributes:
        compute: ``float32``: a Cast widens each constant; onnxruntime folds it as it loads the model. ``float16``:
            every operator that has a float16 form computes in it, for GPUs; on this runtime's CPU that is slower.
        samples: On which the outputs must stay finite, and with ``float16`` every tensor within its range.
    """

    compute: str = "float32"
    samples: int = 20
    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset({"quantized"})

    def __post_init__(self) -> None:
        """Refuse a type that is neither."""
        if self.compute not in COMPUTE:
            near = did_you_mean(self.compute, COMPUTE)
            raise RecipeError(f"emit_float16.compute is {self.compute!r}, expected {' | '.join(COMPUTE)}{near}")

    def __call__(self, state: State, tick: Tick) -> State:
        """Emit the model, enter every operator, and check the outputs."""
        model = state.model.clone()
        ir_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        model.graph.sort()
        matched = patterns.match_all(state.recipe.exclude, model, state.report.ledger)
        asked = {name for names in matched.values() for name in names}
        floats = self._in_float32(state, model, asked)
        halves = {n for n in model.graph if n not in floats}
        constants = half_constants.choose(model, asked, halves)
        entries = {graph.node_name(n): _entry(n, constants, floats) for n in model.graph}
        said = (*_said(constants), _computed(halves, floats))
        warnings = _warnings(constants)
        _write(model, state, constants, halves)
        _check_finite(state, model, self.samples, tick)
        notes = (*said, *(f"--float {p}: {len(names)} nodes" for p, names in matched.items()))
        return replace(state, quantized=Quantized(model)).entered(entries).noted(notes=notes, warnings=warnings)

    def _in_float32(self, state: State, model: ir.Model, asked: set[str]) -> dict[ir.Node, str]:
        """Return the operators that do not compute in float16, with reasons; no reason where nothing else is wanted."""
        if self.compute == "float32":
            return dict.fromkeys(model.graph, "")
        runtime.annotate(model)
        found = half_regions.refusals(model, asked, _wide(state, model, self.samples))
        return found | {n: "" for n in model.graph if n not in found and not _has_floats(n)}


def _write(model: ir.Model, state: State, constants: Constants, halves: set[ir.Node]) -> None:
    writer = HalfGraph(model)
    writer.store(constants.stored)
    writer.compute(n for n in model.graph if n in halves)
    writer.feed(state.recipe.inputs)
    writer.give(state.recipe.outputs)
    writer.connect(halves)


def _entry(node: ir.Node, constants: Constants, floats: Mapping[ir.Node, str]) -> Entry:
    name, op_type = graph.node_name(node), graph.describe_op(node)
    if node not in floats:
        return Entry(name, op_type, STORED, HALF)
    read = dict.fromkeys(_constants_of(node))
    stored = any(v in constants.stored for v in read)
    shown = [v for v in read if v in constants.refused or (v in constants.small and not stored)]
    kept = [f"constant {v.name!r} stays float32: {constants.kept(v)}" for v in shown[:_SHOWN]]
    more = [f"{len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []
    reason = floats[node] or "; ".join([*kept, *more])
    if stored:
        return Entry(name, op_type, STORED, WIDENED, reason)
    if not _has_floats(node):
        return Entry(name, op_type, UNTOUCHED, reason="no float tensor")
    refused = bool(floats[node]) or any(v in constants.refused for v in read)
    return Entry(name, op_type, FLOAT, reason=reason or "it reads no constant", by_design=not refused)


def _constants_of(node: ir.Node) -> Iterator[ir.Value]:
    yield from (v for v in half_constants.read_by(node) if half_constants.array_of(v) is not None)


def _has_floats(node: ir.Node) -> bool:
    return any(v is not None and v.dtype is not None and v.dtype.is_floating_point() for v in node.outputs) or any(
        v is not None and v.dtype == ir.DataType.FLOAT for v in node.inputs
    )


def _said(constants: Constants) -> Iterator[str]:
    if constants.stored:
        size = sum(a.nbytes for v in constants.stored if (a := half_constants.array_of(v)) is not None)
        yield f"{len(constants.stored)} constants stored as float16: {size} bytes become {size // 2}"
    if constants.small:
        counted = Counter(constants.small.values())
        yield from (f"{count} small constants stay float32: {reason}" for reason, count in counted.items())


def _computed(halves: set[ir.Node], floats: Mapping[ir.Node, str]) -> str:
    if not halves:
        return (
            "computed in float32: onnxruntime's CPU provider has no float16 kernels for most operators and widens the "
            "constants as it loads the model; the file is smaller, speed and memory stay"
        )
    pinned = sum(bool(reason) for reason in floats.values())
    return (
        f"{len(halves)} operators compute in float16 and {pinned} in float32, for GPUs: onnxruntime's CPU provider "
        "lacks most float16 kernels and puts Casts around them, which is slower than float32"
    )


def _warnings(constants: Constants) -> tuple[str, ...]:
    """Name the constants that cost bytes because float16 cannot hold them."""
    return tuple(
        f"constant {value.name!r} stays float32: {reason}"
        for value, reason in constants.refused.items()
        if reason != half_constants.ASKED
        and (array := half_constants.array_of(value)) is not None
        and half.saving(array.size) > 0
    )


# ---- samples ---------------------------------------------------------------------------------------------------------


def _wide(state: State, model: ir.Model, count: int) -> set[str]:
    """Return the tensors of the main graph that hold, on some sample, a finite number beyond float16."""
    if state.data is None:
        return set()
    computed = [graph.name_of(v) for n in model.graph for v in n.outputs if v.name and v.dtype == ir.DataType.FLOAT]
    session = runtime.load(state.model, threads=state.threads, outputs=computed) if computed else None
    found: set[str] = set()
    for feed in state.data.take(count):
        for name, array in {**feed, **(session.run(feed) if session else {})}.items():
            if array.dtype == np.float32 and np.any(np.isfinite(array) & (np.abs(array) > half.LARGEST)):
                found.add(name)
    return found


def _check_finite(state: State, model: ir.Model, count: int, tick: Tick) -> None:
    """Raise for the first output that is NaN or infinite where the float model's is not."""
    if state.data is None:
        return
    before, after = (runtime.load(m, threads=state.threads) for m in (state.model, model))
    feeds = state.data.take(count)
    for done, feed in enumerate(feeds, 1):
        _refuse_broken(before.run(feed), after.run(feed))
        tick(done, len(feeds))


def _refuse_broken(expected: Arrays, found: Arrays) -> None:
    for name, array in found.items():
        if array.dtype.kind != "f":
            continue
        broken = int(np.count_nonzero(~np.isfinite(array) & np.isfinite(expected[name])))
        if broken:
            raise QualityError(
                f"output {name!r} holds {broken} values that are NaN or infinite in float16 and finite in float32",
                hint=f"keep the operators before it float32: --float tensor:{name}, --float PATTERN for more of them",
            )
