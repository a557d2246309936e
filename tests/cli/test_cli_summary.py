"""What is shown of results that the bundled sample does not give."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from quantcli.api import Result
from quantcli.cli import quantities, summary
from quantcli.report import FLOAT, Entry, OutputQuality, Report, Verification


def shown(report: Report, title: str) -> summary.Section:
    recipe = SimpleNamespace(name="m", format="qdq", inputs="int8", outputs="int8", needs_data=False)
    graph = SimpleNamespace(inputs=[], initializers={})
    state = SimpleNamespace(report=report, recipe=recipe, original=SimpleNamespace(graph=graph))
    return next(s for s in summary.of(Result(None, state=state)) if s.title.startswith(title))


def test_nothing_is_shown_of_nothing():
    assert summary.of(Result(None)) == []


def test_the_most_frequent_reason_comes_first():
    entries = [Entry("a", "X", FLOAT, reason="r"), *(Entry(n, "Y", FLOAT, reason="s") for n in "bcdef")]
    rows = shown(Report(ledger={e.node: e for e in entries}), "stay float").rows
    assert rows == (("5", "s", "b (Y), c (Y), d (Y) and 2 more"), ("1", "r", "a (X)"))


def test_a_plan_without_data_says_so():
    assert shown(Report(), "data").lines == ("no calibration data is needed",)


@pytest.mark.parametrize(
    ("quality", "cells"),
    [
        (OutputQuality(math.inf, 1.0, 0.0, None), ("y", "exact", "1.000000", "0", "-")),
        (OutputQuality(20.125, 0.5, 1234.5678, 0.25), ("y", "20.12 dB", "0.500000", "1235", "25.0%")),
    ],
    ids=["exact", "lossy"],
)
def test_quality_of_an_output(quality, cells):
    report = Report(verification=Verification(1, {"y": quality}, 0.0, {}))
    assert summary._verification(report).rows == (cells,)


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (999, "999 B"), (44_950, "45.0 kB"), (2_500_000, "2.5 MB"), (3e9, "3.00 GB")]
)
def test_sizes_are_short(count, said):
    assert quantities.size(count) == said


@pytest.mark.parametrize(
    ("shape", "said"), [(None, "any"), ([], "[]"), ([1, None, SimpleNamespace(value="n")], "[1, ?, n]")]
)
def test_shapes_name_what_is_open(shape, said):
    assert summary._shape(shape) == said
