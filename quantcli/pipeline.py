"""Checks that a list of passes fits together, and runs it: a for loop."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from quantcli import foreign
from quantcli.errors import PluginError, RecipeError
from quantcli.state import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quantcli.state import Instrument, Pass


@dataclass(frozen=True, slots=True)
class NamedPass:
    """A pass and the name under which the recipe lists it."""

    name: str
    run: Pass


def check(passes: Sequence[NamedPass], *, has: frozenset[str]) -> None:
    """Check that every pass finds what it needs.

    Args:
        passes: The passes in order.
        has: What is there at the beginning, for example ``data``.

    Raises:
        RecipeError: A pass needs what no earlier pass gives.
    """
    there = set(has)
    for p in passes:
        missing = sorted(p.run.needs - there)
        if missing:
            raise RecipeError(
                f"pass {p.name!r} needs {', '.join(missing)}, which no earlier pass of the recipe gives",
                hint="switch it off, or add the pass that gives it before it",
            )
        there |= p.run.gives


def run(passes: Sequence[NamedPass], state: State, instruments: Sequence[Instrument] = ()) -> State:
    """Run the passes one after the other and note the seconds of each."""
    for p in passes:
        for i in instruments:
            i.before(p.name, state)
        began = time.perf_counter()
        state = _ended(p.name, p.run(state, partial(_tick, instruments, p.name)))
        seconds = time.perf_counter() - began
        state = replace(state, report=replace(state.report, timings={**state.report.timings, p.name: seconds}))
        for i in instruments:
            i.after(p.name, state, seconds)
    return state


def _ended(name: str, found: object) -> State:
    if not isinstance(found, State):
        entry = foreign.offered(foreign.PASSES).get(name)
        owner = f" of {foreign.origin(entry)}" if entry is not None else ""
        raise PluginError(f"pass {name!r}{owner} returned {type(found).__name__}, expected a State", hint=foreign.FAULT)
    return found


def _tick(instruments: Sequence[Instrument], name: str, done: int, total: int) -> None:
    for i in instruments:
        i.tick(name, done, total)
