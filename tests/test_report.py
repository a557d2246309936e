"""The report is values: what it counts, and what the state lets it grow by."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from quantcli.recipe import Recipe
from quantcli.report import ABSORBED, FLOAT, FOLDED, INTEGER, UNTOUCHED, Entry, Report
from quantcli.state import State

FATES = (INTEGER, ABSORBED, FOLDED, FLOAT, UNTOUCHED)


def ledger(*fates: str) -> dict[str, Entry]:
    return {f"n{i}": Entry(f"n{i}", "Conv", fate) for i, fate in enumerate(fates)}


def state(**fields: object) -> State:
    return State(original=None, model=None, recipe=Recipe("mine"), report=Report(**fields))


def test_an_empty_report_counts_nothing():
    assert (Report().count(), Report().floats()) == ({}, [])


def test_fates_are_counted_in_one_order_whatever_the_order_of_the_nodes():
    counted = Report(ledger(UNTOUCHED, FLOAT, FLOAT, FOLDED, INTEGER, ABSORBED)).count()
    assert list(counted.items()) == [(INTEGER, 1), (ABSORBED, 1), (FOLDED, 1), (FLOAT, 2), (UNTOUCHED, 1)]


@pytest.mark.parametrize("fate", FATES)
def test_fates_that_nobody_has_are_not_counted(fate):
    assert Report(ledger(fate)).count() == {fate: 1}


def test_every_node_is_counted_once():
    assert sum(Report(ledger(*FATES * 3)).count().values()) == 15


def test_floats_are_the_entries_of_float_nodes_in_order():
    assert [e.node for e in Report(ledger(FLOAT, INTEGER, FLOAT)).floats()] == ["n0", "n2"]


def test_a_report_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Report().parity_db = 1.0


def test_a_warning_is_said_once():
    noted = state().noted(warnings=("a", "a")).noted(warnings=("b", "a"))
    assert noted.report.warnings == ("a", "b")


def test_a_note_is_said_once_and_is_no_warning():
    noted = state().noted(notes=("a",)).noted(notes=("a", "b"), warnings=("a",))
    assert (noted.report.notes, noted.report.warnings) == (("a", "b"), ("a",))


def test_noting_leaves_the_rest_of_the_report():
    before = state(ledger=ledger(FLOAT), parity_db=80.0, timings={"emit": 1.0})
    after = before.noted(warnings=("w",))
    assert replace(after.report, warnings=()) == before.report


def test_noting_leaves_the_state_that_it_was_asked_of():
    before = state()
    before.noted(warnings=("w",))
    assert before.report.warnings == ()


def test_an_entry_replaces_that_of_the_same_node_and_keeps_its_place():
    planned = state(ledger=ledger(INTEGER, INTEGER)).entered({"n0": Entry("n0", "Conv", FLOAT, reason="unseen")})
    assert [(n, e.fate) for n, e in planned.report.ledger.items()] == [("n0", FLOAT), ("n1", INTEGER)]


def test_new_entries_come_last():
    assert list(state(ledger=ledger(INTEGER)).entered({"m": Entry("m", "Add", FOLDED)}).report.ledger) == ["n0", "m"]
