"""A pipeline is checked before it runs, runs its passes in order, and tells those who watch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import onnx_ir as ir
import pytest
from models import text

from quantcli import pipeline
from quantcli.errors import RecipeError
from quantcli.pipeline import NamedPass
from quantcli.recipe import Recipe
from quantcli.state import State

EMPTY = frozenset()


@dataclass(frozen=True)
class Fake:
    """A pass that adds a note, and ticks as often as asked."""

    needs: frozenset[str] = EMPTY
    gives: frozenset[str] = EMPTY
    note: str = ""
    ticks: int = 0

    def __call__(self, state, tick):
        for done in range(self.ticks):
            tick(done + 1, self.ticks)
        return state.noted(notes=(self.note,) if self.note else ())


@dataclass
class Watcher:
    """An instrument that writes down what it is told."""

    name: str = ""
    heard: list = field(default_factory=list)
    states: list = field(default_factory=list)
    seconds: list = field(default_factory=list)

    def before(self, name, state):
        self.heard.append(f"{self.name}before {name}")
        self.states.append(state)

    def tick(self, name, done, total):
        self.heard.append(f"{self.name}{name} {done}/{total}")

    def after(self, name, state, seconds):
        self.heard.append(f"{self.name}after {name}")
        self.states.append(state)
        self.seconds.append(seconds)


@pytest.fixture
def state():
    model = ir.from_proto(text("(float[2] x) => (float[2] y) { y = Relu(x) }"))
    return State(model, model, Recipe("r"))


def passes(**named):
    return [NamedPass(name, run) for name, run in named.items()]


def needs(*names, gives=()):
    return Fake(frozenset(names), frozenset(gives))


# ---- check -----------------------------------------------------------------------------------------------------------


def test_what_an_earlier_pass_gives_is_there():
    pipeline.check(passes(a=needs(gives=["plan"]), b=needs("plan")), has=EMPTY)


def test_what_was_there_before_is_there():
    pipeline.check(passes(a=needs("data")), has=frozenset({"data"}))


def test_what_was_given_stays_there():
    pipeline.check(passes(a=needs(gives=["plan"]), b=needs("plan"), c=needs("plan")), has=EMPTY)


def test_what_a_later_pass_gives_is_missing():
    with pytest.raises(RecipeError, match="pass 'b' needs plan, which no earlier pass"):
        pipeline.check(passes(b=needs("plan"), a=needs(gives=["plan"])), has=EMPTY)


def test_a_pass_cannot_give_itself_what_it_needs():
    with pytest.raises(RecipeError, match="pass 'a' needs plan"):
        pipeline.check(passes(a=needs("plan", gives=["plan"])), has=EMPTY)


def test_all_that_is_missing_is_named():
    with pytest.raises(RecipeError, match="needs data, plan, which"):
        pipeline.check(passes(a=needs("plan", "quantized", "data")), has=frozenset({"quantized"}))


def test_what_is_missing_comes_with_a_hint():
    with pytest.raises(RecipeError) as caught:
        pipeline.check(passes(a=needs("plan")), has=EMPTY)
    assert caught.value.hint


# ---- run -------------------------------------------------------------------------------------------------------------


def test_passes_run_in_order(state):
    assert pipeline.run(passes(b=Fake(note="first"), a=Fake(note="second")), state).report.notes == ("first", "second")


def test_no_passes_change_nothing(state):
    assert pipeline.run([], state) is state


def test_a_pipeline_leaves_the_given_state_alone(state):
    pipeline.run(passes(a=Fake(note="first")), state)
    assert state.report.notes == ()


def test_every_pass_is_timed(state):
    timings = pipeline.run(passes(a=Fake(), b=Fake()), state).report.timings
    assert list(timings) == ["a", "b"]
    assert all(seconds >= 0 for seconds in timings.values())


def test_earlier_timings_stay(state):
    state = replace(state, report=replace(state.report, timings={"earlier": 1.0}))
    assert pipeline.run(passes(a=Fake()), state).report.timings["earlier"] == 1.0


def test_instruments_hear_everything_in_order(state):
    watcher = Watcher()
    pipeline.run(passes(a=Fake(ticks=2), b=Fake()), state, [watcher])
    assert watcher.heard == ["before a", "a 1/2", "a 2/2", "after a", "before b", "after b"]


def test_instruments_are_told_in_their_order(state):
    heard = []
    pipeline.run(passes(a=Fake(ticks=1)), state, [Watcher("1 ", heard), Watcher("2 ", heard)])
    assert heard == ["1 before a", "2 before a", "1 a 1/1", "2 a 1/1", "1 after a", "2 after a"]


def test_instruments_see_the_state_before_and_after(state):
    watcher = Watcher()
    pipeline.run(passes(a=Fake(note="done")), state, [watcher])
    assert [s.report.notes for s in watcher.states] == [(), ("done",)]


def test_instruments_see_the_timing_of_the_pass(state):
    watcher = Watcher()
    pipeline.run(passes(a=Fake()), state, [watcher])
    assert watcher.states[-1].report.timings == {"a": watcher.seconds[0]}


def test_an_error_of_a_pass_is_not_swallowed(state):
    def fails(state, tick):
        raise RecipeError("no")

    with pytest.raises(RecipeError, match="no"):
        pipeline.run([NamedPass("a", fails)], state)
