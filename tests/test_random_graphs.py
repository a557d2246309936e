"""Random graphs, whatever operators meet in them: every mode converts them, and computes what its numbers imply."""

from __future__ import annotations

import models
import numpy as np
import pytest
from conversion import implied, run, run_session, session
from hypothesis import HealthCheck, given, settings
from stored_reference import check_products, constants, products, samples, stored_numbers, with_stored_numbers
from strategies import EVERY, TAME, graphs, networks
from wide_units import WideUnits

from quantcli import metrics, modes
from quantcli.errors import UnsupportedError

FORMS = {
    "full-integer": ("full-integer",),
    "int8-only": ("int8-only", "fallback=float"),
    "int8-only-as-qdq": ("int8-only", "fallback=float", "format=qdq"),
    "16x8": ("16x8", "fallback=float"),
    "16x8-as-qdq": ("16x8", "fallback=float", "format=qdq"),
}
MOST = 4.0  # steps: ties that fall the other way, carried on by products of a few values
USUAL = 0.9  # of all values; a few may meet several such ties
WIDE = [k for k in TAME if k != "AveragePool"]  # at the border, its windows hold fewer values
STORING = {  # decibels of a network of a few layers against the float one
    "none": 90.0,
    "float16": 45.0,
    "dynamic-range": 20.0,
    "weight-only-int8": 25.0,
    "weight-only-int4": 5.0,
}


def few(count):
    return settings(max_examples=count, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])


def test_every_mode_meets_random_graphs():
    assert {arguments[0] for arguments in FORMS.values()} | STORING.keys() == set(modes.names())


@pytest.mark.parametrize("arguments", FORMS.values(), ids=FORMS)
@given(model=graphs(most=6, kinds=TAME))
@few(20)
def test_a_random_graph_computes_what_its_encodings_imply(bench, arguments, model):
    feeds = models.samples(model, 3)
    converted = bench.convert(model, *arguments, feeds=feeds)
    for feed, expected in zip(feeds, implied(converted, feeds), strict=True):
        for optimize in (False, True):
            found = converted.run(feed, optimize=optimize)
            for name, (real, step) in expected.items():
                unit = step or float(np.ptp(real)) / 255 or 1.0
                assert np.quantile(np.abs(found[name] - real) / unit, USUAL) <= MOST, name


@given(model=graphs(most=6, kinds=WIDE))
@few(25)
def test_a_random_graph_in_16_bits_is_exact(bench, model):
    feeds = models.samples(model, 3)
    converted = bench.convert(model, "16x8", feeds=feeds)
    assert converted.fates() <= {"integer", "absorbed", "folded", "untouched"}
    expected = WideUnits(converted)
    loaded = [session(converted.model, optimize=o) for o in (False, True)]
    for feed in [*feeds[:2], {n: x * 5 for n, x in feeds[2].items()}]:  # the last one saturates
        integers = expected.integers(feed)
        for found in (run_session(s, feed) for s in loaded):
            for name, real in found.items():
                scale = converted.grids[name].scale
                np.testing.assert_array_equal(real, integers[name].astype(np.float32) * scale, err_msg=name)


@pytest.mark.parametrize("mode", ["int8-only", "16x8"])
@given(model=graphs(most=4, kinds=EVERY))
@few(10)
def test_a_random_graph_is_converted_whole_or_refused_with_reasons(bench, mode, model):
    feeds = models.samples(model, 3)
    converted = attempted(bench, model, mode, feeds)
    if isinstance(converted, UnsupportedError):
        names = {repr(n.name) for n in model.graph.node}
        assert all(any(n in reason for n in names) for reason in converted.reasons), converted.reasons
        assert bench.convert(model, mode, "fallback=float", feeds=feeds).floats()
    else:
        assert not converted.floats()


@pytest.mark.parametrize("mode", STORING)
@given(model=networks())
@few(10)
def test_a_random_network_computes_with_the_numbers_that_are_stored(bench, mode, model):
    feeds = samples(model)
    converted = attempted(bench, model, mode, feeds)
    if isinstance(converted, UnsupportedError):
        assert mode.startswith("weight-only")
        return
    check_steps(converted)
    exact = with_stored_numbers(converted)
    for feed in feeds:
        expected, real = run(exact, feed), run(model, feed)
        for optimize in (False, True):
            found = converted.run(feed, optimize=optimize)
            assert list(found) == list(real)
            check_products(converted, feed, optimize=optimize)
            for name, array in real.items():
                assert metrics.sqnr_db(array, found[name]) >= STORING[mode]
                if not products(converted) and "DynamicQuantizeLSTM" not in written(converted):
                    limit = 2e-5 * max(1.0, float(np.abs(array).max()))
                    np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=limit)


def attempted(bench, model, mode, feeds):
    """Return the converted model, or the refusal with its reasons."""
    try:
        return bench.convert(model, mode, feeds=feeds)
    except UnsupportedError as refusal:
        return refusal if refusal.exit_code == 4 and refusal.reasons else None


def written(converted):
    return {n.op_type for n in converted.model.graph.node}


def check_steps(converted):
    """Nearly every stored number is one of the two beside the user's; the ends of a grid may have been cut off."""
    numbers = stored_numbers(converted)
    for name, array in constants(converted.prepared).items():
        if name in numbers:
            stored, half = numbers[name]
            assert (np.abs(stored - array) <= 2.0001 * half).mean() > 0.95, name
