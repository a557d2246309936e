"""Calibrators: each law of each method, against the definition that it names."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantcli import affine, plugins
from quantcli.calibrators.auto import HEEDLESS
from quantcli.calibrators.entropy import Entropy, divergences, kept_bins
from quantcli.calibrators.minmax import MinMax
from quantcli.calibrators.moving_average import MovingAverage
from quantcli.calibrators.mse import Mse
from quantcli.calibrators.percentile import Percentile
from quantcli.calibrators.sqnr import Sqnr
from quantcli.dtypes import INT8, INT16, UINT8
from quantcli.errors import RecipeError
from quantcli.quant import QuantSpec
from quantcli.recipe import Recipe, Step

U8, I16 = QuantSpec(UINT8, symmetric=False), QuantSpec(INT16, symmetric=True)
I8 = QuantSpec(INT8, symmetric=True)
SPECS = {"uint8": U8, "int8-symmetric": I8, "int16-symmetric": I16}
with_every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
finite = st.floats(-1000, 1000, width=32)
samples = st.lists(hnp.arrays(np.float32, st.integers(1, 30), elements=finite), min_size=1, max_size=4)


def made(name, **options):
    (step,) = plugins.passes_of(Recipe("r", passes=(Step("calibrate", {"calibrator": name, **options}),)))
    return step.run.calibrator


def range_of(calibrator, *arrays, spec=U8):
    observer = calibrator.observer(spec)
    for array in arrays:
        observer.observe(np.asarray(array, np.float32))
    return calibrator.range(observer.stats(), spec)


def heavy_tailed(size=60000):
    return np.random.default_rng(0).standard_t(2.5, size).astype(np.float32)


def skewed(size=60000):
    return np.maximum(heavy_tailed(size), -0.5)


def loss(array, ends, spec):
    """The mean squared error of the grid of a range, on the values themselves."""
    return float(np.square(affine.fake_quantize(array, affine.choose_params(*ends, spec)) - array).mean())


# ---- of every method -------------------------------------------------------------------------------------------------

with_every_method = pytest.mark.parametrize("name", plugins.CALIBRATORS)


@with_every_method
@with_every_spec
@settings(max_examples=25, deadline=None)
@given(many=samples)
def test_a_range_is_never_wider_than_what_was_seen(name, spec, many):
    low, high = range_of(made(name), *many, spec=spec)
    assert min(a.min() for a in many) <= low <= high <= max(a.max() for a in many)


@with_every_method
@with_every_spec
@settings(max_examples=25, deadline=None)
@given(many=samples, random=st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(name, spec, many, random):
    mixed = random.sample(many, len(many))
    assert range_of(made(name), *many, spec=spec) == range_of(made(name), *mixed, spec=spec)


@with_every_method
@with_every_spec
@pytest.mark.parametrize("power", [-20, 20])
def test_a_unit_of_measure_does_not_matter(name, spec, power):
    array = skewed(4000)
    low, high = range_of(made(name), array, spec=spec)
    assert range_of(made(name), array * np.float32(2.0**power), spec=spec) == (low * 2.0**power, high * 2.0**power)


@with_every_method
@with_every_spec
@pytest.mark.parametrize("value", [0.0, -2.5, 1e-40, 3e38])
def test_a_constant_tensor_has_its_value_as_range(name, spec, value):
    array = np.full((3, 50), value, np.float32)
    assert range_of(made(name), array, spec=spec) == (array[0, 0], array[0, 0])


@with_every_method
@pytest.mark.parametrize("sign", [1, -1])
def test_a_one_sided_tensor_keeps_its_side(name, sign):
    low, high = range_of(made(name), sign * np.abs(heavy_tailed()))
    assert (low >= 0, high >= 0) == (sign == 1, sign == 1)


@with_every_method
@pytest.mark.parametrize("offset", [-3.0, 4.0])
def test_values_that_lie_on_a_grid_keep_it(name, offset):
    """The grid of what was seen has no error at all, so nothing that weighs errors may leave it."""
    array = (np.arange(256, dtype=np.float32).repeat(40) + np.float32(offset * 16)) / 16
    low, high = range_of(made(name), array)
    assert (min(low, 0), max(high, 0)) == (min(array.min(), 0), max(array.max(), 0))


@with_every_method
def test_methods_are_found_by_name(name):
    assert range_of(made(name), [-1, 1]) == (-1, 1)


# ---- what was seen ---------------------------------------------------------------------------------------------------

VECTORS = [  # range, scale and zero point of asymmetric int8, of uint8, scales of symmetric int8 and int16
    ((-1, 3), 0.0156862745, -64, 64, 0.0236220472, 9.15555e-5),
    ((-0.5, 3.5), 0.0156862745, -96, 32, 0.0275590551, 1.068148e-4),
    ((0.2, 5), 0.0196078431, -128, 0, 0.0393700787, 1.525925e-4),
    ((-6, -1), 0.0235294118, 127, 255, 0.0472440945, 1.831111e-4),
    ((0, 6), 0.0235294118, -128, 0, 0.0472440945, 1.831111e-4),
    ((-1.8, 0.5), 0.0090196078, 72, 200, 0.0141732283, 5.493332e-5),
]


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("name", ["minmax", "moving-average", "percentile", "entropy"])
def test_the_grids_of_two_values(name, vector):
    ends, scale, zero, unsigned_zero, symmetric, wide = vector

    def grid(spec):
        return affine.choose_params(*range_of(made(name), ends, spec=spec), spec)

    asymmetric = grid(QuantSpec(INT8, symmetric=False))
    assert float(asymmetric.scale) == pytest.approx(scale, rel=1e-6)
    assert (int(asymmetric.zero_point), int(grid(U8).zero_point)) == (zero, unsigned_zero)
    assert float(grid(I8).scale) == pytest.approx(symmetric, rel=1e-6)
    assert float(grid(I16).scale) == pytest.approx(wide, rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(samples)
def test_min_max_holds_every_value(many):
    low, high = range_of(MinMax(), *many)
    assert all(low <= x <= high for a in many for x in a)


# ---- moving average --------------------------------------------------------------------------------------------------


def test_the_moving_average_is_the_mean_of_the_extremes():
    assert range_of(MovingAverage(), [-1, 5], [-3, 1], [0.5, 0.75]) == (-3.5 / 3, 6.75 / 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(hnp.arrays(np.float32, 3, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
                min_size=1, max_size=6))  # fmt: skip
def test_the_moving_average_is_exact_whatever_the_sizes(many):
    lows = [int(float(a.min()) * 2.0**149) for a in many]
    assert range_of(MovingAverage(), *many)[0] == sum(lows) / (len(lows) << 149)


# ---- percentile ------------------------------------------------------------------------------------------------------


@with_every_spec
@settings(max_examples=60, deadline=None)
@given(many=samples)
def test_the_whole_percentile_is_min_max(spec, many):
    assert range_of(Percentile(100.0), *many, spec=spec) == range_of(MinMax(), *many, spec=spec)


@with_every_spec
@pytest.mark.parametrize("array", [heavy_tailed(), skewed(), np.abs(heavy_tailed())], ids=["both", "skewed", "one"])
def test_a_larger_percentile_has_a_wider_range(spec, array):
    found = [range_of(Percentile(p), array, spec=spec) for p in (60, 90, 99, 99.9, 99.99, 100)]
    assert all(wide[0] <= low and high <= wide[1] for (low, high), wide in itertools.pairwise(found))
    assert found[0] != found[-1]


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9, 99.99])
def test_a_percentile_leaves_out_its_share_at_each_end(percentile):
    array = heavy_tailed()
    low, high = range_of(Percentile(percentile), array)
    share = (100 - percentile) / 100
    for left_out in ((array < low).mean(), (array > high).mean()):
        assert share * 0.9 - 3 / array.size <= left_out <= share


@pytest.mark.parametrize("percentile", [90.0, 99.9])
def test_of_a_symmetric_grid_it_is_the_share_of_both_ends_together(percentile):
    array = skewed()
    low, high = range_of(Percentile(percentile), array, spec=I8)
    left_out = (np.abs(array) > max(-low, high)).mean()
    assert (100 - percentile) / 100 * 0.9 <= left_out <= (100 - percentile) / 100


def test_what_may_be_left_out_is_left_out():
    array = np.concatenate([np.full(10, -8), np.tile([0.25, 1], 490), np.full(10, 8)])
    assert range_of(Percentile(99.0), array) == (0.25, 1 + 2**-7)


def test_few_values_lose_none():
    assert range_of(Percentile(99.99), np.arange(9999)) == (0, 9998)


@pytest.mark.parametrize("percentile", [50.0, 0.0, -1, 100.5, float("nan")])
def test_a_percentile_that_is_none_is_an_error(percentile):
    with pytest.raises(RecipeError, match="percentile"):
        made("percentile", percentile=percentile)


# ---- entropy ---------------------------------------------------------------------------------------------------------


def by_definition(bins, size, levels):
    """KL(p || q) of one candidate, step by step."""
    kept = bins[:size]
    p, q = kept.copy(), np.zeros(size)
    p[-1] += bins[size:].sum()
    for group in range(levels):
        inside = slice(-(-group * size // levels), -(-(group + 1) * size // levels))
        filled = kept[inside] > 0
        q[inside] = np.where(filled, kept[inside].sum() / max(filled.sum(), 1), 0)
    if not q.any() or ((p > 0) & (q == 0)).any():
        return np.inf
    p, q = p / p.sum(), q / q.sum()
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.int64, st.integers(9, 60), elements=st.integers(0, 20)), st.sampled_from([2, 4, 8]))
def test_divergences_follow_the_definition(counts, levels):
    bins = counts.astype(np.float64)
    sizes = np.arange(levels, bins.size + 1)
    expected = [by_definition(bins, size, levels) for size in sizes] if bins.any() else np.zeros(sizes.size)
    np.testing.assert_allclose(divergences(bins, sizes, levels), expected, atol=1e-9)


def test_of_equal_divergences_the_widest_range_wins():
    assert kept_bins(np.full(64, 5), 16) == 64


def test_the_first_bin_takes_the_count_of_the_second():
    counts = np.array([10**6, *np.exp(-np.arange(255) / 20) * 1000], np.int64)
    assert kept_bins(counts, 128) == kept_bins(np.array([counts[1], *counts[1:]]), 128)


def test_entropy_clips_a_heavy_tail():
    array = heavy_tailed()
    low, high = range_of(Entropy(), array)
    seen = range_of(MinMax(), array)
    assert low == -high
    assert seen[0] < low
    assert high < seen[1] / 2


def test_entropy_keeps_an_even_spread():
    low, high = range_of(Entropy(), np.random.default_rng(0).uniform(-3, 100, 60000))
    assert low < -2.9
    assert high > 95


def test_one_sided_values_have_twice_the_levels():
    array = np.abs(heavy_tailed())
    assert range_of(Entropy(), array)[1] >= range_of(Entropy(), array, spec=I8)[1]


def test_sixteen_bits_have_more_levels_than_bins():
    assert range_of(Entropy(), heavy_tailed(), spec=I16) == range_of(MinMax(), heavy_tailed())


# ---- errors ----------------------------------------------------------------------------------------------------------


@with_every_spec
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), tail=st.floats(1.5, 30), offset=st.floats(-3, 3), size=st.integers(200, 3000))
def test_mse_is_never_worse_than_min_max(spec, seed, tail, offset, size):
    array = (np.random.default_rng(seed).standard_t(tail, size) + offset).astype(np.float32)
    least = loss(array, range_of(MinMax(), array, spec=spec), spec)
    assert loss(array, range_of(Mse(), array, spec=spec), spec) <= least * 1.01


@pytest.mark.parametrize("spec", [U8, I8], ids=["uint8", "int8-symmetric"])
@pytest.mark.parametrize("array", [heavy_tailed(), skewed(), np.abs(heavy_tailed())], ids=["both", "skewed", "one"])
def test_mse_finds_nearly_the_best_range(spec, array):
    found = loss(array, range_of(Mse(), array, spec=spec), spec)
    low, high = float(array.min()), float(array.max())
    shares = 0.93 ** np.arange(40)
    others = [loss(array, (low * a, high * b), spec) for a in shares for b in shares[::4]]
    assert found <= 1.1 * min(others)
    assert found < 0.95 * loss(array, (low, high), spec)


def test_sqnr_has_the_least_cost_of_its_candidates():
    array = heavy_tailed()
    whole = (float(array.max()) - float(array.min())) / 255

    def cost(low, high):
        step = (high - low) / 255
        inside = ((array >= low) & (array <= high)).mean()
        return 3 * np.square(array - array.clip(low, high)).mean() + inside * step**2 / 12

    tried = [
        (max(f / 16 * whole * o, array.min()), min(f / 16 * whole * (o + 255), array.max()))
        for f in range(1, 18)
        for o in [*np.rint(-255 * np.arange(20) / 19), np.rint(array.min() / whole)]
    ]
    best = min(cost(low, high) for low, high in tried if low < high)
    assert cost(*range_of(Sqnr(), array)) == pytest.approx(best, rel=0.02)


def test_cutting_off_may_cost_less():
    widths = [np.ptp(range_of(Sqnr(cutting=c), heavy_tailed())) for c in (0.3, 3.0, 300.0)]
    assert widths == sorted(widths)
    assert widths[0] < widths[2]


def test_auto_offers_what_was_seen_first_and_every_method():
    auto, array = made("auto"), heavy_tailed()
    observer = auto.observer(U8)
    observer.observe(array)
    offered = auto.candidates(observer.stats(), U8)
    assert list(offered) == [n for n in plugins.CALIBRATORS if n not in ("auto", *HEEDLESS)]
    every = replace(auto, heedless=True).candidates(observer.stats(), U8)
    assert list(every) == [n for n in plugins.CALIBRATORS if n != "auto"]
    assert offered["minmax"] == range_of(MinMax(), array)
    assert offered["mse"] == range_of(Mse(), array)


def test_auto_alone_has_the_smallest_error_of_what_is_offered():
    array = heavy_tailed()
    found = loss(array, range_of(made("auto"), array), U8)
    others = [loss(array, range_of(made(n), array), U8) for n in plugins.CALIBRATORS if n != "auto"]
    assert found <= 1.02 * min(others)
