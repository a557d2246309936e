"""What the laws of this folder share: the forms that a model can be converted to, and how far each may be off."""

from __future__ import annotations

import models
import numpy as np
import pytest
from conversion import FORMATS, run, run_session, session
from models import weight
from onnx import checker

from quantcli import metrics

in_both_formats = pytest.mark.parametrize("output_format", FORMATS)
IMAGE = "(float[1,3,5,5] x) => (float y) "
ROWS = "(float[4,6] x) => (float y) "


def error(converted, feed=None, *, optimize=True):
    """The largest error of each output against the float model."""
    fed = feed or converted.feeds[0]
    expected, found = run(converted.float_model, fed), converted.run(fed, optimize=optimize)
    assert list(found) == list(expected)
    return {n: float(np.abs(found[n] - real).max()) for n, real in expected.items()}


def step(converted, name="y"):
    """The step of a tensor; of a float output, 1/255 of what it spans."""
    if name in converted.grids:
        return float(converted.grids[name].scale)
    return float(np.ptp(run(converted.float_model, converted.feeds[0])[name])) / 255


def sqnr_db(converted):
    return min(o["sqnr_db"] for o in converted.result.report["verification"]["outputs"].values())


def loads_and_is_faithful(converted, least=25.0):
    checker.check_model(converted.model)
    assert sqnr_db(converted) > least


SCALED = {
    "conv": (IMAGE + "{ y = Conv(x, w) }", weight(3, 3, 3, 3, scaled=0), 0),
    "gemm": (ROWS + "{ y = Gemm(x, w) }", weight(6, 6, scaled=1), 1),
    "gemm-trans-b": (ROWS + "{ y = Gemm<transB = 1>(x, w) }", weight(6, 6, scaled=0), 0),
    "matmul": (ROWS + "{ y = MatMul(x, w) }", weight(6, 6, scaled=1), 1),
    "matmul-3d": ("(float[2,4,6] x) => (float y) { y = MatMul(x, w) }", weight(6, 6, scaled=1), 1),
}
STORING = ("dynamic-range", "weight-only-int8", "weight-only-int4")
HALF = "passes.emit_float16.compute=float16"
FORMS = {m: (m,) for m in ("none", *STORING, "float16", "16x8")} | {
    "float16-computed": ("float16", HALF),
    "weight-only-int4-all": ("weight-only-int4", "passes.plan_weights.eight_bit_below=0"),
    "16x8-as-qdq": ("16x8", "format=qdq"),
}
LEAST_DB = {
    "none": 100, "dynamic-range": 28, "weight-only-int8": 30, "weight-only-int4": 12, "weight-only-int4-all": 12,
    "float16": 60, "float16-computed": 50, "16x8": 35, "16x8-as-qdq": 35,
}  # fmt: skip
STATIC = {"qdq": ("full-integer",), "integer": ("int8-only", "fallback=float")}
STATIC_DB = 25
WIDE = ("16x8", "16x8-as-qdq")
ALSO = dict.fromkeys(WIDE, ("fallback=float",)) | {  # what a form needs to take any model
    f: ("passes.plan_weights.everywhere=true", "passes.plan_weights.must_gain=false")
    for f in FORMS if f.startswith("weight-only")
}  # fmt: skip
LARGE = (96, 96)  # of a weight that is stored, and has a kernel in every mode
TALL = "(float[40,96] x) => (float y) "
in_every_form = pytest.mark.parametrize("form", FORMS)
in_wide_forms = pytest.mark.parametrize("form", WIDE)
in_all_forms = pytest.mark.parametrize("form", [*STATIC, *FORMS])
in_integer_forms = pytest.mark.parametrize("form", [*STATIC, *WIDE])
in_float16_forms = pytest.mark.parametrize("form", ["float16", "float16-computed"])
in_storing_forms = pytest.mark.parametrize("form", [f for f in FORMS if f not in WIDE])
where_weights_are_stored = pytest.mark.parametrize("form", [f for f in FORMS if f not in (*WIDE, "none")])


def large(seed=0, spread=0.1, shape=LARGE):
    return weight(*shape, seed=seed, spread=spread)


def as_form(bench, model, form, *settings, **options):
    """Convert and check: it is valid, runs optimized or not, and agrees with the float model."""
    least = options.pop("least", LEAST_DB.get(form, STATIC_DB))
    feeds = options.pop("feeds", None) or models.samples(model, 3)
    mode, *fixed = (FORMS | STATIC)[form]
    made = bench.convert(model, mode, *fixed, *settings, feeds=feeds, **options)
    checker.check_model(made.model, full_check=all(n.domain == "" for n in made.model.graph.node))
    before = session(model)
    for feed in feeds[:2]:
        for name, real in run_session(before, feed).items():
            for optimize in (False, True):
                found = made.run(feed, optimize=optimize)[name]
                assert found.shape == real.shape
                assert metrics.sqnr_db(real, found) >= least, name
    return made
