"""Gathers what advice follows from: facts of the prepared model, and what each mode would make of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantcli import documents, facts, graph, jobs, prospects, runtime
from quantcli.errors import QuantError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from quantcli.facts import Facts
    from quantcli.jobs import Job
    from quantcli.prospects import Prospect
    from quantcli.state import State


def made(
    job: Job, states: Mapping[str, State], outcomes: Mapping[str, State | QuantError]
) -> tuple[Facts, list[Prospect]]:
    """Return the facts and the prospect of every mode.

    Args:
        job: The model.
        states: What the dry runs began with.
        outcomes: What they ended with.
    """
    first = next(iter(states.values()))
    planned = [o for o in outcomes.values() if not isinstance(o, QuantError)]
    model = planned[0].model if planned else first.original
    feed = _feed(first, job)
    whole = job.model.stat().st_size + documents.external_bytes(first.original)
    seen = facts.sizes(model, feed)
    found = facts.gather(model, seen, whole, first.data)
    kept = min(len(model.graph) / max(len(first.original.graph), 1), 1.0)  # simplifying takes nodes away
    structure = round(max(whole - _constant_bytes(first.original), 0) * kept)
    expected = []
    for mode, outcome in outcomes.items():
        recipe = states[mode].recipe
        if isinstance(outcome, QuantError):
            expected.append(prospects.refused(recipe, outcome))
        else:
            seen = facts.sizes(outcome.model, feed, seen)
            expected.append(prospects.planned(recipe, outcome, seen, structure))
    return found, expected


def _feed(state: State, job: Job) -> runtime.Feed | None:
    """Return a sample to size free dimensions with: a real one, else a random one that the model takes, else none."""
    if state.data is not None:
        return next(iter(state.data))
    session = runtime.load(state.reference)
    try:
        return next(iter(jobs.trial_data(session, job.model)))
    except QuantError:
        return None


def _constant_bytes(model: ir.Model) -> int:
    """Return the bytes of all constants: initializers, and those that nodes hold."""
    held = [v.const_value for g in graph.all_graphs(model) for v in g.initializers.values()]
    held += [
        n.attributes["value"].as_tensor()
        for n in model.graph.all_nodes()
        if n.op_type == "Constant" and "value" in n.attributes
    ]
    return sum(int(t.nbytes) for t in held if t is not None)
