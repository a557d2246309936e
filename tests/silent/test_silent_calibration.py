"""What calibration saw: extremes, order, masks, NaN, dead channels, names."""

from __future__ import annotations

from importlib.metadata import entry_points

import models
import numpy as np
import pytest
from conversion import documents, run, run_session, session
from integer_reference import F32, Grid
from laws import (
    ALSO,
    FORMS,
    IMAGE,
    LEAST_DB,
    ROWS,
    STATIC,
    STATIC_DB,
    TALL,
    WIDE,
    as_form,
    error,
    in_all_forms,
    in_both_formats,
    in_integer_forms,
    in_storing_forms,
    in_wide_forms,
    large,
    step,
    where_weights_are_stored,
)
from models import Fed, weight

from quantcli import metrics, plugins
from quantcli.errors import DatasetError


@in_both_formats
def test_s13_an_extreme_of_the_first_sample_is_remembered(bench, output_format):
    model = models.text(ROWS + "{ a = MatMul(x, w) r = Relu(a) y = MatMul(r, w) }", w=np.eye(6, dtype=F32))
    feeds = models.samples(model, 3)
    feeds[0]["x"][0, 0] = 77
    converted = bench.as_format(model, output_format, feeds=feeds)
    assert converted.result.report["ranges"]["x"][1] == 77
    assert converted.result.report["ranges"]["r"][1] == 77


def arrangements():
    """The same 24 rows as other samples: by batch, in another order, of mixed lengths."""
    rows = np.random.default_rng(3).normal(0, 1, (24, 6)).astype(F32)
    ends = [3, 4, 11, 24]
    return {
        "one-by-one": [{"x": rows[i : i + 1]} for i in range(24)],
        "by-two": [{"x": rows[i : i + 2]} for i in range(0, 24, 2)],
        "by-eight": [{"x": rows[i : i + 8]} for i in range(0, 24, 8)],
        "backwards": [{"x": rows[i : i + 1]} for i in reversed(range(24))],
        "mixed-lengths": [{"x": rows[a:b]} for a, b in zip([0, *ends], ends, strict=False)],
    }


@in_both_formats
def test_s15_encodings_do_not_depend_on_how_samples_are_batched(bench, output_format):
    model = models.text(
        "(float[N,6] x) => (float[N,6] y) { a = MatMul(x, w) b = Tanh(a) y = MatMul(b, w) }", w=weight(6, 6)
    )
    found = [bench.as_format(model, output_format, feeds=f).result.encodings for f in arrangements().values()]
    assert all(f["encodings"] == found[0]["encodings"] for f in found)


def test_s16_a_tensor_that_is_an_input_is_not_overwritten_by_the_next_sample(bench):
    model = models.text(
        "(float[2,6] x) => (float[2,6] z, float[2,6] y) { z = Identity(x) a = MatMul(x, w) y = Relu(a) }",
        w=np.eye(6, dtype=F32),
    )

    def reusing_one_buffer():
        buffer = np.zeros((2, 6), F32)
        for value in (50, 1, -20, 2):
            buffer[:] = value
            yield {"x": buffer}

    converted = bench.convert(model, feeds=reusing_one_buffer)
    assert converted.result.report["ranges"]["x"] == [-20, 50]
    assert converted.result.report["ranges"]["z"] == [-20, 50]


def test_s17_a_mask_of_the_most_negative_number_leaves_finite_scales(bench):
    model = models.text(
        "(float[4,6] x, bool[4,6] c) => (float y) { a = MatMul(x, w) m = Where(c, a, low) y = Softmax(m) }",
        w=weight(6, 6), low=np.asarray(-3.4e38, F32),
    )  # fmt: skip
    feeds = [{**f, "c": np.arange(24).reshape(4, 6) % 3 != 0} for f in models.samples(model)]
    converted = bench.convert(model, "full-integer", feeds=feeds)
    assert all(np.isfinite(g.scale).all() for g in converted.grids.values())
    assert error(converted, feeds[0])["y"] < 0.02


@in_both_formats
@pytest.mark.parametrize("value", [0.0, 1e-42], ids=["zero", "subnormal"])
def test_s18_a_dead_channel_has_a_sound_scale(bench, output_format, value):
    w = weight(4, 3, 3, 3)
    w[0] = value
    model = models.text(IMAGE + "{ y = Conv(x, w, b) }", w=w, b=np.asarray([1, 0.5, -1, 2], F32))
    converted = bench.as_format(model, output_format)
    scale = converted.grids["w"].scale
    assert np.isfinite(scale).all()
    assert (scale > np.finfo(F32).tiny).all()
    assert error(converted)["y"] < 1.5 * step(converted) + 0.02


@in_both_formats
@pytest.mark.parametrize("spread", [1, 1e-3])
def test_s18_an_activation_that_is_always_zero_has_a_sound_scale(bench, output_format, spread):
    b = weight(6, spread=spread)
    model = models.text(ROWS + "{ a = MatMul(x, w) r = Relu(a) y = Gemm(r, w, b) }", w=np.eye(6, dtype=F32), b=b)
    feeds = models.samples(model, ranges={"x": Fed((4, 6), -3, -1)})
    converted = bench.as_format(model, output_format, feeds=feeds)
    scale = float(converted.grids["r"].scale)
    assert np.isfinite(scale)
    assert scale > 0
    assert error(converted)["y"] < 0.05 * np.ptp(b)


def test_s18_a_tensor_that_takes_no_finite_value_is_listed(bench):
    model = models.text(
        ROWS + "{ a = MatMul(x, w) l = Log(a) b = MatMul(l, w) y = Where(c, x, b) }",
        w=np.eye(6, dtype=F32), c=np.ones(1, bool),
    )  # fmt: skip
    feeds = models.samples(model, ranges={"x": Fed((4, 6), -3, -1)})
    converted = bench.convert(model, "full-integer", feeds=feeds)
    assert any("never calibrated" in w for w in converted.result.report["warnings"])
    assert error(converted)["y"] < 0.05


@in_both_formats
def test_s41_samples_are_matched_by_name(bench, output_format):
    model = models.text(
        "(float[4,6] small, float[4,6] large) => (float y) { a = MatMul(small, w) b = MatMul(large, w) y = Add(a, b) }",
        w=np.eye(6, dtype=F32),
    )
    ranges = {"small": Fed((4, 6), -1, 1), "large": Fed((4, 6), -100, 100)}
    feeds = [dict(reversed(f.items())) for f in models.samples(model, ranges=ranges)]
    converted = bench.as_format(model, output_format, feeds=feeds)
    assert converted.result.report["ranges"]["small"][1] <= 1
    assert converted.result.report["ranges"]["large"][1] > 90


MASKS = {"lowest": -3.4e38, "infinity": -np.inf, "beyond-float16": -1e6}


@in_storing_forms
@pytest.mark.parametrize("mask", MASKS)
def test_s17_s35_a_mask_masks(bench, form, mask):
    model = models.text(
        "(float[40,96] x, bool[40,96] c) => (float y)"
        " { a = MatMul(x, w) m = Where(c, a, low) s = Softmax(m) y = MatMul(s, v) }",
        w=large(), v=large(1), low=np.asarray(MASKS[mask], F32),
    )  # fmt: skip
    feeds = [{**f, "c": np.arange(40 * 96).reshape(40, 96) % 3 != 0} for f in models.samples(model)]
    made = as_form(bench, model, form, feeds=feeds, least=LEAST_DB[form] - 8)
    shares = run(made.model, feeds[0], outputs=["s"])["s"]
    assert (shares[~feeds[0]["c"]] == 0).all()


@in_storing_forms
def test_s18_a_constant_input_gives_what_float_gives(bench, form):
    model = models.text(TALL + "{ a = MatMul(x, w) y = Gemm(a, v, b) }", w=large(), v=large(1), b=large(2, shape=(96,)))
    made = as_form(bench, model, form, least=LEAST_DB[form] - 6)
    before = session(model)
    for value in (0.0, 5.0, -3.0, 1e-30, *([1e30] if form != "float16-computed" else [])):
        fed = {"x": np.full((40, 96), value, F32)}
        for optimize in (False, True):
            found = made.run(fed, optimize=optimize)["y"]
            assert metrics.sqnr_db(run_session(before, fed)["y"], found) > LEAST_DB[form] - 10


DEAD = {  # which values, and what they are
    "a-channel-of-zeros": (np.s_[:, 3], 0.0),
    "a-block-of-zeros": (np.s_[32:64], 0.0),
    "only-zeros": (np.s_[:], 0.0),
    "a-subnormal-channel": (np.s_[:, 3], 1e-42),
    "only-tiny-values": (np.s_[:], 1e-30),
    "only-one-value": (np.s_[:], 0.25),
}


@where_weights_are_stored
@pytest.mark.parametrize("case", DEAD)
def test_s18_dead_weights_have_sound_scales(bench, form, case):
    w, (where, value) = large(), DEAD[case]
    w[where] = value
    model = models.text(TALL + "{ a = MatMul(x, w) y = Gemm(a, v, b) }", w=w, v=large(1), b=weight(96))
    for entry in as_form(bench, model, form).result.encodings["encodings"]:
        scale = np.asarray(entry["y_scale"], F32)
        assert np.isfinite(scale).all()
        assert (scale >= np.finfo(F32).tiny).all()


@where_weights_are_stored
def test_s18_zero_weights_stay_zero(bench, form):
    w = large()
    w[np.random.default_rng(0).random(w.shape) < 0.5] = 0
    made = as_form(bench, models.text(TALL + "{ y = MatMul(x, w) }", w=w), form)
    (product,) = [n for n in made.model.graph.node if n.op_type in ("MatMul", "MatMulInteger")]
    computed = {o for n in made.model.graph.node for o in n.output} & {product.input[1]}
    known = made.constants | (run(made.model, made.feeds[0], outputs=computed, optimize=False) if computed else {})
    assert (known[product.input[1]][w == 0] == 0).all()


CALIBRATORS = sorted({*plugins.CALIBRATORS, *(e.name for e in entry_points(group="quantcli.calibrators"))})
with_every_calibrator = pytest.mark.parametrize("calibrator", CALIBRATORS)
CUTTING = {"moving-average"}  # the mean of the samples' extremes lies inside the extremes of most of them
with_every_calibrator_that_keeps_most = pytest.mark.parametrize("calibrator", sorted({*CALIBRATORS} - CUTTING))


@in_wide_forms
@pytest.mark.parametrize("extreme", [77, -77])
@pytest.mark.parametrize("sample", [0, 2])
def test_s13_an_extreme_of_any_sample_is_remembered(bench, form, extreme, sample):
    model = models.text(ROWS + "{ a = MatMul(x, w) r = Add(a, a) y = MatMul(r, w) }", w=np.eye(6, dtype=F32))
    feeds = models.samples(model, 3)
    feeds[sample]["x"][0, 0] = extreme
    made = as_form(bench, model, form, feeds=feeds)
    assert abs(extreme) <= float(made.grids["x"].scale) * 32767 * 1.000001
    assert extreme in made.result.report["ranges"]["x"]


@with_every_calibrator_that_keeps_most
@in_integer_forms
def test_s14_the_smaller_side_of_a_lopsided_tensor_is_kept(bench, form, calibrator):
    model = models.text(ROWS + "{ y = MatMul(x, w) }", w=np.eye(6, dtype=F32))
    rng = np.random.default_rng(5)
    feeds = [{"x": rng.uniform(-3, 100, (4, 6)).astype(F32)} for _ in range(8)]
    mirrored = [{"x": -f["x"]} for f in feeds]
    for fed, sign in ((feeds, 1), (mirrored, -1)):
        made = as_form(bench, model, form, calibrator=calibrator, feeds=fed)
        least, most = ends(made.grids["x"])
        small, large_side = (least, most) if sign == 1 else (-most, -least)
        assert small <= -2.5
        assert large_side >= 90
        extremes = {"x": np.linspace(-3, 3, 24, dtype=F32).reshape(4, 6) * sign}
        assert error(made, extremes)["y"] <= 1.01 * step(made)


def ends(grid):
    """The smallest and the largest number of a grid."""
    limits = np.iinfo(grid.zero_point.dtype)
    return tuple((q - int(grid.zero_point)) * float(grid.scale) for q in (limits.min, limits.max))


@with_every_calibrator
@in_wide_forms
def test_s15_wide_encodings_do_not_depend_on_how_samples_are_batched(bench, form, calibrator):
    model = models.text(
        "(float[N,6] x) => (float[N,6] y) { a = MatMul(x, w) b = Tanh(a) y = MatMul(b, w) }", w=weight(6, 6)
    )
    found = [
        as_form(bench, model, form, calibrator=calibrator, feeds=f, least=5).result.encodings
        for f in arrangements().values()
    ]
    assert all(f["encodings"] == found[0]["encodings"] for f in found)


def test_s15_the_written_model_is_the_same_however_samples_are_batched(bench):
    model = models.text("(float[N,6] x) => (float[N,6] y) { a = MatMul(x, w) y = Tanh(a) }", w=weight(6, 6))
    written = {bench.convert(model, feeds=f).model.SerializeToString() for f in arrangements().values()}
    assert len(written) == 1


@in_integer_forms
def test_s16_an_input_that_is_an_output_is_not_overwritten(bench, form):
    model = models.text(
        "(float[2,6] x) => (float[2,6] z, float[2,6] y, float[2,6] x2) "
        "{ z = Identity(x) a = MatMul(x, w) y = Relu(a) x2 = Reshape(x, s) }",
        w=np.eye(6, dtype=F32), s=models.ints(2, 6),
    )  # fmt: skip
    feeds = [{"x": np.full((2, 6), value, F32)} for value in (50, 1, -20, 2)]
    made = as_form(bench, model, form, feeds=feeds, least=10)
    assert made.result.report["ranges"]["x"] == [-20, 50]
    for value in (50, -20):
        assert error(made, {"x": np.full((2, 6), value, F32)})["y"] < step(made)


LOWEST = {"lowest": -3.4e38, "infinity": -np.inf, "large": -1e9}


@in_integer_forms
@pytest.mark.parametrize("mask", LOWEST)
@pytest.mark.parametrize("where", ["Where(c, a, low)", "Where(n, low, a)"])
def test_s17_a_mask_leaves_the_scores_their_scale(bench, form, mask, where):
    unmasked = "" if "(c" in where else "n = Not(c) "
    model = models.text(
        "(float[4,6] x, bool[4,6] c) => (float y)"
        f" {{ a = MatMul(x, w) {unmasked}m = {where} s = Softmax(m) y = MatMul(s, v) }}",
        w=weight(6, 6), v=weight(6, 6, seed=1), low=np.asarray(LOWEST[mask], F32),
    )  # fmt: skip
    feeds = [{**f, "c": np.arange(24).reshape(4, 6) % 3 != 0} for f in models.samples(model, 6)]
    feeds[0]["c"] = np.tile(np.arange(6) == 2, (4, 1))  # all the weight on one value
    made = as_form(bench, model, form, *ALSO.get(form, ()), feeds=feeds)
    assert all(np.isfinite(g.scale).all() for g in made.grids.values())
    np.testing.assert_allclose(made.run(feeds[0])["y"], np.tile(weight(6, 6, seed=1)[2], (4, 1)), atol=0.02)


@in_integer_forms
def test_s17_an_added_mask_leaves_the_scores_their_scale(bench, form):
    model = models.text(
        "(float[4,6] x, float[4,6] c) => (float y) { a = MatMul(x, w) m = Add(a, c) s = Softmax(m) y = MatMul(s, v) }",
        w=weight(6, 6), v=weight(6, 6, seed=1),
    )  # fmt: skip
    mask = np.where(np.arange(24).reshape(4, 6) % 3 != 0, 0, -10000).astype(F32)
    feeds = [{**f, "c": mask} for f in models.samples(model, 6)]
    as_form(bench, model, form, *ALSO.get(form, ()), feeds=feeds, least=28)


@in_all_forms
def test_s17_a_nan_that_the_model_itself_removes_does_no_harm(bench, form):
    model = models.text(
        TALL + "{ z = Mul(x, k) b = Div(z, k) i = IsNaN(b) e = Where(i, one, b) y = MatMul(e, v) }",
        k=(np.arange(96) != 0).astype(F32), v=large(), one=1.0,
    )  # fmt: skip
    made = as_form(bench, model, form, *ALSO.get(form, ()), least=LEAST_DB.get(form, STATIC_DB) - 5)
    assert all(np.isfinite(g.scale).all() for g in made.grids.values())
    assert all(np.isfinite(made.run(f)["y"]).all() for f in made.feeds)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@in_all_forms
def test_s17_a_sample_that_is_not_finite_is_refused_and_named(bench, form, broken):
    model = models.text(TALL + "{ y = MatMul(x, w) }", w=large())
    feeds = models.samples(model, 4)
    feeds[2]["x"][1, 2] = broken
    with pytest.raises(DatasetError, match=r"input 'x', sample 2 .* at \[1, 2\]"):
        as_form(bench, model, form, feeds=feeds)


@in_all_forms
def test_s18_a_branch_that_is_never_taken_is_right_when_it_is(bench, form):
    bodies = (
        "then_branch = t () => (float[40,96] p) { p = MatMul(m, v) }, "
        "else_branch = e () => (float[40,96] q) { q = MatMul(m, u) }"
    )
    model = models.text(
        f"(float[40,96] x, bool c) => (float y) {{ m = MatMul(x, w) y = If(c) <{bodies}> }}",
        w=large(), v=large(1), u=large(2),
    )  # fmt: skip
    taken = [{**f, "c": np.ones((), bool)} for f in models.samples(model, 3)]
    made = as_form(bench, model, form, *ALSO.get(form, ()), feeds=taken, least=LEAST_DB.get(form, STATIC_DB) - 8)
    never = {**taken[0], "c": np.zeros((), bool)}
    real, found = run(model, never)["y"], made.run(never)["y"]
    assert metrics.sqnr_db(real, found) > LEAST_DB.get(form, STATIC_DB) - 8


@in_wide_forms
def test_s18_a_dead_channel_has_a_sound_scale_in_16_bits(bench, form):
    w = weight(4, 3, 3, 3)
    w[0], w[1] = 0, 1e-42
    model = models.text(IMAGE + "{ y = Conv(x, w, b) }", w=w, b=np.asarray([1, 0.5, -1, 2], F32))
    made = as_form(bench, model, form)
    assert (made.grids["w"].scale >= np.finfo(F32).tiny).all()
    found, real = made.run(made.feeds[0])["y"], run(model, made.feeds[0])["y"]
    assert np.abs(found - real)[:, :2].max() < 1.01 * step(made)


@in_integer_forms
def test_s19_an_exported_range_reaches_the_larger_side(bench, form):
    model = models.text(ROWS + "{ y = MatMul(x, w) }", w=np.eye(6, dtype=F32))
    feeds = models.samples(model, ranges={"x": Fed((4, 6), -9, 0.9)})
    feeds[0]["x"][0, :2] = -10, 1
    as_form(bench, model, form, feeds=feeds)
    entries = {e["name"]: e for e in documents(bench.folder)["encodings"]["encodings"]}
    entry = entries["x"]
    grid = Grid(np.asarray(entry["y_scale"]), np.asarray(entry["y_zero_point"], entry["output_dtype"]))
    low, high = ends(grid)
    assert low <= -10 + grid.scale
    assert high >= 1 - grid.scale
    if form in WIDE:
        assert (-low, high) == pytest.approx((10, 10), rel=1e-4)


SYMMETRIC = {f: w for f, w in (FORMS | STATIC).items() if f in (*STATIC, *WIDE, "weight-only-int8")}


@pytest.mark.parametrize("form", SYMMETRIC)
@pytest.mark.parametrize("granularity", ["per-tensor", "per-channel"])
def test_s19_a_symmetric_weight_reaches_its_larger_side(bench, form, granularity):
    w = np.random.default_rng(0).uniform(-10, 1, (96, 96)).astype(F32)
    w[0], w[1] = -10, 1
    model = models.text(TALL + "{ y = MatMul(x, w) }", w=w)
    as_form(bench, model, form, f"scheme.weights.granularity={granularity}", least=20)
    entries = {e["name"]: e for e in documents(bench.folder)["encodings"]["encodings"]}
    entry = entries["w"]
    most = np.iinfo(entry["output_dtype"]).max + (form == "weight-only-int8")
    assert np.asarray(entry["y_scale"]).max() * most == pytest.approx(10, rel=0.01)


@in_wide_forms
def test_s41_samples_are_matched_by_name_in_16_bits(bench, form):
    model = models.text(
        "(float[4,6] small, float[4,6] large) => (float y) { a = MatMul(small, w) b = MatMul(large, w) y = Add(a, b) }",
        w=np.eye(6, dtype=F32),
    )
    ranges = {"small": Fed((4, 6), -1, 1), "large": Fed((4, 6), -100, 100)}
    feeds = [dict(reversed(f.items())) for f in models.samples(model, ranges=ranges)]
    made = as_form(bench, model, form, feeds=feeds)
    assert ends(made.grids["small"])[1] < 1.01
    assert ends(made.grids["large"])[1] > 90


@pytest.mark.parametrize("names", [("small", "other"), ("small",), ("small", "large", "more")], ids=str)
def test_s41_samples_with_other_names_are_refused(bench, names):
    model = models.text(
        "(float[4,6] small, float[4,6] large) => (float y) { a = Add(small, large) y = MatMul(a, w) }",
        w=np.eye(6, dtype=F32),
    )
    feeds = [dict.fromkeys(names, np.ones((4, 6), F32))]
    with pytest.raises(DatasetError):
        bench.convert(model, feeds=feeds)
