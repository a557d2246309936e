"""Tensors that are one value although they have two names: what leaves a model and enters it again, or another one.

A recurrent state, a key-value cache, the output of an encoder: both sides get one scale and zero point, so that the
integers can be passed on as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from quantcli import affine, graph
from quantcli.errors import DatasetError, did_you_mean
from quantcli.ranges import Range, chosen, clamps_of, clipped, stats_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import onnx_ir as ir

    from quantcli.plan import Plan
    from quantcli.state import State

# How exporters name an output that is fed back, and the input that takes it.
_PAIRS: Final = (
    (r"present(.*)", r"past\1"),
    (r"present(.*)", r"past_key_values\1"),
    (r"present_key_values(.*)", r"past_key_values\1"),
    (r"new_(.*)", r"\1"),
    (r"next_(.*)", r"\1"),
    (r"out_(.*)", r"in_\1"),
    (r"(.*)_out", r"\1_in"),
    (r"(.*)_out", r"\1"),
    (r"(.*)_next", r"\1"),
    (r"(.*)_new", r"\1"),
    (r"(.*)N", r"\1"),
    (r"([hc])n", r"\g<1>0"),
)


@dataclass(frozen=True, slots=True)
class End:
    """One end of a tie: a tensor of a signature (``""`` where there is only one model)."""

    signature: str
    tensor: str

    def __str__(self) -> str:
        return f"{self.signature}.{self.tensor}" if self.signature else self.tensor


Tie = tuple[End, End]  # what leaves, what enters


def tied(states: Mapping[str, State], declared: Sequence[Tie] = ()) -> dict[str, State]:
    """Return the calibrated states with one grid fixed for the tensors of each tie.

    Args:
        states: Planned and calibrated, by signature.
        declared: Ties of the user's; those that names show are found here.

    Raises:
        DatasetError: A declared tie names an output or input that does not exist.
    """
    _check(states, declared)
    found = [*declared, *_by_name(states, {entering for _, entering in declared})]
    quantized = [tie for tie in found if all(e.tensor in states[e.signature].plan.activations for e in tie)]
    fixed = _fixed(states, quantized)
    notes = _notes(found, quantized)
    return {name: _with(state, fixed.get(name, {}), notes.get(name, ())) for name, state in states.items()}


def _check(states: Mapping[str, State], declared: Iterable[Tie]) -> None:
    for leaving, entering in declared:
        for end, kind in ((leaving, "output"), (entering, "input")):
            if end.signature not in states:
                near = did_you_mean(end.signature, states) or f"; known: {', '.join(states)}"
                raise DatasetError(f"ties: unknown signature {end.signature!r}{near}")
            model = states[end.signature].original.graph
            known = [graph.name_of(v) for v in (model.outputs if kind == "output" else model.inputs)]
            if end.tensor not in known:
                near = did_you_mean(end.tensor, known) or f"; known: {', '.join(known)}"
                raise DatasetError(f"ties: {str(end)!r} is no {kind}{near}", hint="a tie is [output, input]")


def _by_name(states: Mapping[str, State], taken: Iterable[End]) -> list[Tie]:
    """Return the ties that names show: equal ones in two models, and spellings of a state in one or two."""
    inputs = {End(s, graph.name_of(v)): v for s, state in states.items() for v in state.original.graph.inputs}
    free = {end: value for end, value in inputs.items() if end not in set(taken)}
    found = []
    for signature, state in states.items():
        for output in state.original.graph.outputs:
            leaving = End(signature, graph.name_of(output))
            for entering, value in list(free.items()):
                other = entering.signature != signature
                if _is_one(leaving.tensor, entering.tensor, other=other) and _fit(output, value):
                    found.append((leaving, entering))
                    del free[entering]
    return found


def _is_one(output: str, entering: str, *, other: bool) -> bool:
    if other and output == entering:
        return True
    matches = ((re.fullmatch(left, output), right) for left, right in _PAIRS)
    return any(match is not None and match.expand(right) == entering for match, right in matches)


def _fit(output: ir.Value, entering: ir.Value) -> bool:
    if output.dtype != entering.dtype or output.shape is None or entering.shape is None:
        return False
    sizes = zip(output.shape, entering.shape, strict=True) if len(output.shape) == len(entering.shape) else None
    return sizes is not None and all(a == b or not (isinstance(a, int) and isinstance(b, int)) for a, b in sizes)


def _fixed(states: Mapping[str, State], ties: Iterable[Tie]) -> dict[str, dict[str, tuple[float, int]]]:
    """Return, by signature and tensor, the grid of every tensor that a tie reaches, directly or through its group."""
    fixed: dict[str, dict[str, tuple[float, int]]] = {}
    for members in _components(states, ties):
        grid = _grid(states, members)
        for end in members:
            fixed.setdefault(end.signature, {})[end.tensor] = grid
    return fixed


def _components(states: Mapping[str, State], ties: Iterable[Tie]) -> list[set[End]]:
    components: list[set[End]] = []
    for tie in ties:
        joined = {m for end in tie for m in _group(states[end.signature].plan, end)}
        apart = [c for c in components if not c & joined]
        components = [*apart, joined.union(*(c for c in components if c & joined))]
    return components


def _group(plan: Plan, end: End) -> set[End]:
    group = next((g for g in plan.groups if end.tensor in g), frozenset({end.tensor}))
    return {End(end.signature, t) for t in group}


def _grid(states: Mapping[str, State], members: Iterable[End]) -> tuple[float, int]:
    ends = sorted(members, key=str)
    known = [grid for e in ends if (grid := states[e.signature].plan.fixed.get(e.tensor)) is not None]
    if known:
        return known[0]
    ranges: list[Range] = []
    for end in ends:
        state = states[end.signature]
        if stats_of(end.tensor, graph.named_values(state.model.graph), state).count:
            ranges.append(clipped(chosen([end.tensor], state)[end.tensor], clamps_of(state.plan).get(end.tensor)))
    spec = states[ends[0].signature].plan.activations[ends[0].tensor]
    low, high = min((r[0] for r in ranges), default=0.0), max((r[1] for r in ranges), default=0.0)
    params = affine.choose_params(low, high, spec)
    return float(params.scale), int(params.zero_point)


def _notes(found: Iterable[Tie], quantized: Sequence[Tie]) -> dict[str, tuple[str, ...]]:
    notes: dict[str, tuple[str, ...]] = {}
    for tie in found:
        leaving, entering = tie
        how = "one encoding" if tie in quantized else "float on at least one side, so there is no encoding to share"
        text = f"tied: output {str(leaving)!r} enters as {str(entering)!r}: {how}"
        for signature in dict.fromkeys(end.signature for end in tie):
            notes[signature] = (*notes.get(signature, ()), text)
    return notes


def _with(state: State, fixed: Mapping[str, tuple[float, int]], notes: tuple[str, ...]) -> State:
    return replace(state, plan=replace(state.plan, fixed={**state.plan.fixed, **fixed})).noted(notes=notes)
