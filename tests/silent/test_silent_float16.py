"""Storing or computing in float16."""

from __future__ import annotations

import itertools

import models
import numpy as np
import pytest
from conversion import run
from integer_reference import F32
from laws import (
    ALSO,
    FORMS,
    HALF,
    LEAST_DB,
    STATIC_DB,
    TALL,
    as_form,
    in_all_forms,
    in_float16_forms,
    large,
    where_weights_are_stored,
)
from models import weight
from onnx import checker

from quantcli import metrics
from quantcli.errors import QualityError


@where_weights_are_stored
def test_s36_scales_and_positions_keep_their_types(bench, form):
    model = models.text(
        "(float[1,32,8,8] x) => (float y) {"
        ' a = Conv(x, w) r = Resize<mode = "linear">(a, "", s) t = Range(zero, eight, one) g = Sqrt(t)'
        " h = ReduceSum(g) u = Mul(r, h) f = Flatten(u) y = MatMul(f, v) }",
        w=weight(32, 32, 1, 1, spread=0.2), s=np.asarray([1, 1, 0.5, 0.5], F32), v=weight(512, 16, spread=0.1),
        zero=0.0, eight=8.0, one=1.0,
    )  # fmt: skip
    as_form(bench, model, form, least=LEAST_DB[form] - 4)


@in_float16_forms
def test_s35_a_mean_over_many_ones_is_one(bench, form):
    model = models.text(
        "(float[1,4,512,512] x) => (float y, float z, float u) { y = ReduceMean(x, ax) q = Mul(x, k) e = Mul(q, q)"
        " z = ReduceMean(e, ax) u = ReduceSum(x, ax) }",
        ax=models.ints(2, 3), k=300.0,
    )  # fmt: skip
    feeds = [{"x": np.ones((1, 4, 512, 512), F32)}]
    made = as_form(bench, model, form, feeds=feeds)
    found = made.run(feeds[0])
    np.testing.assert_allclose(found["y"], 1, rtol=1e-3)
    np.testing.assert_allclose(found["z"], 9e4, rtol=1e-3)
    np.testing.assert_allclose(found["u"], 512 * 512, rtol=1e-3)


def test_s35_what_goes_beyond_float16_stays_float32_and_is_listed(bench):
    model = models.text(
        "(float[1,4,512,512] x) => (float z) { q = Mul(x, k) [square] e = Mul(q, q) [mean] z = ReduceMean(e, ax) }",
        ax=models.ints(2, 3), k=300.0,
    )  # fmt: skip
    made = bench.convert(model, "float16", HALF, feeds=[{"x": np.ones((1, 4, 512, 512), F32)}])
    assert {n for n, r in made.floats().items() if "beyond float16's 65504" in r} == {"square", "mean"}


@in_float16_forms
def test_s35_an_output_that_float16_cannot_hold_is_refused_by_name(bench, form):
    model = models.text(TALL + "{ a = MatMul(x, w) y = Mul(a, k) }", w=large(), k=1e6)
    with pytest.raises(QualityError, match="output 'y' holds"):
        as_form(bench, model, form, output_type="float16")
    assert not (bench.folder / "quantized.onnx").exists()


CONSTANTS = {"an-infinite-mask": -np.inf, "a-large-mask": -1e9, "the-lowest-number": -3.4e38, "an-epsilon": 1e-12}


@in_float16_forms
@pytest.mark.parametrize("case", CONSTANTS)
def test_s35_a_constant_keeps_its_meaning_or_its_type(bench, form, case):
    value = CONSTANTS[case]
    body = ("s = Mul(a, a) m = ReduceMean<keepdims = 1>(s, ax) t = Add(m, k) r = Sqrt(t) y = Div(a, r)"
            if value > 0 else "m = Where(c, a, k) s = Softmax(m) y = MatMul(s, v)")  # fmt: skip
    declared = "float[40,96] x" + ("" if value > 0 else ", bool[40,96] c")
    arrays = {"ax": models.ints(1)} if value > 0 else {"v": large(1)}
    model = models.text(f"({declared}) => (float y) {{ a = MatMul(x, w) {body} }}",
                        w=large(), k=np.asarray(value, F32), **arrays)  # fmt: skip
    feeds = models.samples(model, 3)
    if value > 0:
        feeds[0]["x"][0] = 0  # 0 / sqrt(0 + epsilon) is 0, and without the epsilon NaN
    made = as_form(bench, model, form, feeds=feeds)
    assert all(np.isfinite(made.run(f)["y"]).all() for f in feeds)
    held = [a for a in made.constants.values() if a.size == 1 and a.dtype in (F32, np.float16)]
    assert any(float(a) == F32(value) for a in held)


@in_float16_forms
@pytest.mark.parametrize("scale", [1e-6, 300.0])
def test_s35_a_normalization_of_tiny_or_large_numbers_is_the_float_one(bench, form, scale):
    model = models.text(
        TALL + "{ a = MatMul(x, w) b = Mul(a, k) n = LayerNormalization<epsilon = 0.000000000001>(b, g, o)"
        " y = MatMul(n, v) }",
        w=large(), v=large(1), g=np.ones(96, F32), o=np.zeros(96, F32), k=np.asarray(scale, F32),
    )  # fmt: skip
    as_form(bench, model, form, least=30)


RESIZES = {
    "roi": 'Resize<mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize">(a, roi, half)',
    "scales": 'Resize<mode = "linear">(a, "", half)',
    "sizes": 'Resize<mode = "nearest">(a, "", "", sizes)',
    "fractions": 'Resize<mode = "linear">(a, "", third)',
}
OPERANDS = {
    "roi": np.asarray([0, 0, 0.1, 0.2, 1, 1, 0.9, 0.8], F32), "half": np.asarray([1, 1, 0.5, 0.5], F32),
    "sizes": models.ints(1, 32, 5, 11), "third": np.asarray([1, 1, 1 / 3, 8 / 3], F32),
}  # fmt: skip


@in_all_forms
@pytest.mark.parametrize("case", RESIZES)
def test_s36_a_resize_keeps_its_scales_and_region(bench, form, case):
    used = {n: a for n, a in OPERANDS.items() if n in RESIZES[case].partition("(a")[2]}
    body = f"{{ a = Conv(x, w) r = {RESIZES[case]} b = Relu(r) y = Conv(b, w) }}"
    model = models.text("(float[1,32,8,8] x) => (float y) " + body, w=weight(32, 32, 1, 1, spread=0.2), **used)
    as_form(bench, model, form, *ALSO.get(form, ()), least=LEAST_DB.get(form, STATIC_DB) - 6)


BODIES = (
    "then_branch = t () => (float[40,96] p) { p = Mul(d, k) }, "
    "else_branch = e () => (float[40,96] q) <float[1] own = {0.5}> { z = MatMul(d, v) q = Add(z, own) }"
)


@in_float16_forms
@pytest.mark.parametrize("types", [*itertools.product(("float32", "float16"), repeat=2)], ids="-".join)
def test_s36_branches_and_a_float_operator_between_have_types_that_fit(bench, form, types):
    model = models.text(
        "(float[40,96] x, bool c) => (float y)"
        f" {{ a = MatMul(x, w) [kept] b = Mul(a, j) d = Add(b, x) y = If(c) <{BODIES}> }}",
        w=large(), v=large(1), k=weight(96), j=weight(96, seed=1),
    )  # fmt: skip
    feeds = [{**f, "c": np.asarray(i % 2 == 0)} for i, f in enumerate(models.samples(model, 4))]
    made = bench.convert(model, *FORMS[form], feeds=feeds, keep_float=("kept",),
                         input_type=types[0], output_type=types[1])  # fmt: skip
    checker.check_model(made.model, full_check=True)
    for feed in feeds:
        fed = {**feed, "x": feed["x"].astype(types[0])}
        for optimize in (False, True):
            found = made.run(fed, optimize=optimize)["y"]
            assert found.dtype == types[1]
            assert metrics.sqnr_db(run(model, feed)["y"], found.astype(F32)) > 45


def test_s36_casts_do_not_follow_one_another(bench):
    body = "{ a = MatMul(x, w) [kept] b = Softmax(a) [too] c = Mul(b, k) d = MatMul(c, v) y = Add(d, x) }"
    model = models.text(TALL + body, w=large(), v=large(1), k=weight(96))
    made = bench.convert(model, "float16", HALF, keep_float=("kept", "too"))
    casts = {n.output[0] for n in made.nodes("Cast")}
    assert casts
    assert not [n for n in made.nodes("Cast") if n.input[0] in casts]


@pytest.mark.parametrize("form", ["qdq", "integer"])
def test_s36_a_cubic_resize_between_convolutions_loads(bench, form):
    model = models.text(
        '(float[1,32,8,8] x) => (float y) { a = Conv(x, w) r = Resize<mode = "cubic">(a, "", half) b = Relu(r)'
        " y = Conv(b, w) }",
        w=weight(32, 32, 1, 1, spread=0.2),
        half=np.asarray([1, 1, 0.5, 0.5], F32),
    )
    as_form(bench, model, form)
