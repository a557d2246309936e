"""Random graphs, whatever operators meet in them: they convert, and compute what their encodings imply."""

from __future__ import annotations

import models
import numpy as np
import pytest
from conversion import implied
from hypothesis import HealthCheck, given, settings
from strategies import TAME, graphs

FORMS = {
    "full-integer": ("full-integer",),
    "int8-only": ("int8-only", "fallback=float"),
    "int8-only-as-qdq": ("int8-only", "fallback=float", "format=qdq"),
}
MOST = 4.0  # steps: ties that fall the other way, carried on by products of a few values
USUAL = 0.9  # of all values; a few may meet several such ties


@pytest.mark.parametrize("arguments", FORMS.values(), ids=FORMS)
@given(model=graphs(most=6, kinds=TAME))
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
def test_a_random_graph_computes_what_its_encodings_imply(bench, arguments, model):
    feeds = models.samples(model, 3)
    converted = bench.convert(model, *arguments, feeds=feeds)
    for feed, expected in zip(feeds, implied(converted, feeds), strict=True):
        for optimize in (False, True):
            found = converted.run(feed, optimize=optimize)
            for name, (real, step) in expected.items():
                unit = step or float(np.ptp(real)) / 255 or 1.0
                assert np.quantile(np.abs(found[name] - real) / unit, USUAL) <= MOST, name
