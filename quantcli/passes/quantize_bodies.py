"""Converts the bodies of If, Loop and Scan like models of their own, on the samples that reach them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from quantcli import bodies, body_runs, graph, patterns
from quantcli.consistency import check_consistency
from quantcli.errors import UnsupportedError
from quantcli.ledger import CONTROL_FLOW
from quantcli.oprules import OP_RULES, Role
from quantcli.report import FLOAT, FOLDED, INTEGER, STORED, UNTOUCHED, Entry
from quantcli.state import Pass, State
from quantcli.storage import STORAGE

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from quantcli.bodies import Body
    from quantcli.data import RepresentativeDataset
    from quantcli.observations import Observations, Subject
    from quantcli.quant import QuantParams
    from quantcli.state import Tick

_NOTHING = "nothing in this body gains"
_NEVER = "never taken by the samples: its activations have no range"


@dataclass(frozen=True, slots=True)
class QuantizeBodies:
    """Runs the passes of the recipe on every body that has something to gain.

    Attributes:
        inner: What is done to a body: the passes of the recipe that work on a part of a model as on a whole one.
    """

    inner: tuple[Pass, ...] = field(default=(), metadata={"given": True})
    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()

    def with_inner(self, inner: tuple[Pass, ...]) -> QuantizeBodies:
        """Return the pass with what it does to a body."""
        return replace(self, inner=inner)

    def __call__(self, state: State, tick: Tick) -> State:
        """Convert body after body; one that gains nothing stays as it is."""
        if state.recipe.fallback == "refuse" and state.recipe.format != "float":
            return state  # float tensors pass between graphs: the plan refuses them
        known = [body for node in state.model.graph for body in bodies.bodies_of(node)]
        left = {n: e for body in known if not _may_gain(body) for n, e in _floats(body, _NOTHING).items()}
        todo = list(dict.fromkeys(body.node for body in known if _may_gain(body)))
        if not known:
            return state
        state = state.entered(left)
        if not todo:
            return state
        model = state.model.clone()
        state, names = replace(state, model=model), graph.Names(model)
        nodes = {graph.node_name(n): n for n in model.graph}
        for done, name in enumerate([graph.node_name(n) for n in todo], 1):
            state = self._converted(state, nodes[name], names)
            tick(done, len(todo))
        bodies.share_equal(model, names)
        graph.remove_unused(model)
        return state

    def _converted(self, state: State, node: ir.Node, names: graph.Names) -> State:
        found = {b.attribute: (b, bodies.as_model(b, state.model)) for b in bodies.bodies_of(node) if _may_gain(b)}
        against = _kept(state, node) or body_runs.carried_out(node, graph.opset(state.model))
        if against is not None:
            return state.entered({n: e for b, _ in found.values() for n, e in _floats(b, against).items()})
        around = state.observations
        if not state.recipe.needs_data or around is None:
            return self._with(state, found, {}, names)
        if around.samples is None:
            return self._with(state, found, _reaching(around, state.model, found, {}), names)
        with body_runs.samples(state.model, found, around.samples, state.threads) as fed:
            return self._with(state, found, _reaching(around, state.model, found, fed), names)

    def _with(
        self,
        state: State,
        found: Mapping[str, tuple[Body, ir.Model]],
        reaching: Mapping[str, Observations | None],
        names: graph.Names,
    ) -> State:
        for attribute, (body, made) in found.items():
            seen = reaching.get(attribute)
            never = bool(reaching) and seen is None
            state = _merged(state, body, self._run(state, made, seen, never=never), names, never=never)
        return state

    def _run(self, state: State, made: ir.Model, seen: Observations | None, *, never: bool) -> State:
        kept = _matching(state.recipe.exclude, made)
        recipe = replace(state.recipe, inputs="float32", outputs="float32", exclude=kept, overrides=())
        data = seen.samples if seen is not None else None
        inner = State(made, made, recipe, data, observed=seen, stand_in=state.stand_in, threads=state.threads)
        there = set(inner.given)
        for step in (self if isinstance(p, QuantizeBodies) else p for p in self.inner):
            plans = "plan" in step.gives and never  # without ranges nothing comes of a plan
            if step.needs <= there and not plans:
                try:
                    inner, there = step(inner, _silent), there | step.gives
                except UnsupportedError:  # the mode refuses a model like this: the body stays, and its operators say so
                    return replace(inner, quantized=None)
        return inner


def _reaching(
    around: Observations,
    model: ir.Model,
    found: Mapping[str, tuple[Body, ir.Model]],
    fed: Mapping[str, RepresentativeDataset | None],
) -> dict[str, Observations | None]:
    """Return, by attribute, what is known of the samples that reach each body; None where none does."""

    def look(bodies_of: list[Subject], samples: RepresentativeDataset) -> dict[Subject, int | None]:
        del samples  # they are on their way already
        turns = {body.place: fed.get(name) for name, (body, _) in found.items()}
        return {(kind, place): len(turns[place] or ()) for kind, place in bodies_of}

    asked = [("turns", body.place) for body, _ in found.values()]
    turns = around.of(model, asked, look, expected=int)
    reached = {name: turns["turns", body.place] or 0 for name, (body, _) in found.items()}
    return {
        name: around.inside(body.place, model, fed.get(name), reached[name]) if reached[name] else None
        for name, (body, _) in found.items()
    }


def _silent(done: int, total: int) -> None:
    """Progress is told body by body."""


def _may_gain(body: Body) -> bool:
    """Tell whether an operator inside has weights that could be stored smaller, or an integer form that pays."""
    return any(_gains(node) for node in body.graph.all_nodes() if graph.is_onnx(node))


def _gains(node: ir.Node) -> bool:
    row, rule = STORAGE.get(node.op_type), OP_RULES.get(node.op_type)
    if row is not None and row.table:  # a Gather of what was just computed is no table
        return graph.real_constant(node.inputs[row.weights[0]]) is not None
    return row is not None or (rule is not None and rule.role is Role.LINEAR)


def _kept(state: State, node: ir.Node) -> str | None:
    name = graph.node_name(node)
    matched = patterns.match_all(_matching(state.recipe.exclude, state.model), state.model, state.report.ledger)
    return "kept float as asked" if any(name in names for names in matched.values()) else None


def _matching(exclude: tuple[str, ...], model: ir.Model) -> tuple[str, ...]:
    return tuple(p for p in exclude if patterns.matches(p, model))


def _merged(state: State, body: Body, ended: State, names: graph.Names, *, never: bool) -> State:
    """Put a converted body back, and take over what is known of its operators and tensors."""
    counted = ended.report.count()
    entries = {
        n: e if e.fate != FLOAT or not never else replace(e, reason=_NEVER) for n, e in ended.report.ledger.items()
    }
    entries = {**_floats(body, _NEVER if never else _NOTHING), **entries}
    warnings = tuple(f"{body.place}: {w}" for w in ended.report.warnings)
    if never:
        warnings = (*warnings, f"{body.place} is {_NEVER}")
    state = state.entered(entries).noted(warnings=warnings)
    if ended.quantized is None or not counted.keys() & {INTEGER, STORED}:
        return state
    check_consistency(ended.quantized, ended.plan, ended.encodings)
    bodies.put_back(body, ended.quantized.model, names, state.model)
    ranges = {**ended.report.ranges, **state.report.ranges}
    return replace(
        state,
        inner={**state.inner, **_named({**ended.inner, **ended.quantized.params}, body, state)},
        report=replace(state.report, ranges=ranges),
    )


def _named(params: Mapping[str, QuantParams], body: Body, state: State) -> dict[str, QuantParams]:
    """Return parameters by the names that they are told under.

    A constant of the main graph that is float there, or that another body has otherwise, is named with its place.
    """
    around = state.model.graph.initializers
    found = {}
    for name, own in params.items():
        outer, other = around.get(name), state.inner.get(name)
        elsewhere = outer is not None and (bool(outer.uses()) or outer.is_graph_output())
        told = elsewhere or (other is not None and not other.same_as(own))
        found[f"{body.place}/{name}" if told else name] = own
    return found


def _floats(body: Body, reason: str) -> dict[str, Entry]:
    """Return an entry for every operator of a body that stays as it is."""
    found = {}
    for node in body.graph.all_nodes():
        fate, why = FLOAT, reason
        if graph.is_onnx(node, "Constant"):
            fate, why = FOLDED, "constant"
        elif bodies.bodies_of(node):
            fate, why = UNTOUCHED, CONTROL_FLOW
        found[graph.node_name(node)] = Entry(graph.node_name(node), graph.describe_op(node), fate, reason=why)
    return found
