"""What divides in float is not rounded to 0."""

from __future__ import annotations

import models
import numpy as np
import pytest
from conversion import run
from models import weight

SOURCE = "(float[1,3,6,6] x) => (float[1,4,6,6] y) {{ c = Conv(x, w) {divides} }}"
DIVIDES = {
    "by itself": "y = Div(c, c)",
    "moved": "t = Transpose<perm = [0, 1, 3, 2]>(c) s = Transpose<perm = [0, 1, 3, 2]>(t) y = Div(c, s)",
    "the second part": "f, s = Split<axis = 3>(r, sizes) d = Div(f, s) y = Concat<axis = 3>(d, f)",
    "reciprocal": "y = Reciprocal(c)",
    "with an epsilon": "a = Relu(c) b = Add(a, tiny) y = Div(a, b)",
}


def converted(bench, divides, mode="full-integer", **constants):
    model = models.text(SOURCE.format(divides=divides), w=weight(4, 3, 1, 1), **constants)
    settings = ["fallback=float"] if mode == "16x8" else []
    return model, bench.convert(model, mode, *settings)


@pytest.mark.parametrize("mode", ["full-integer", "16x8"])
@pytest.mark.parametrize("case", DIVIDES)
def test_a_divisor_is_not_rounded_to_zero(bench, case, mode):
    needed = {"tiny": 1e-6, "sizes": np.array([3, 3])}
    needed = {n: value for n, value in needed.items() if n in DIVIDES[case]}
    divides = DIVIDES[case] if "r," not in DIVIDES[case] else f"p = Relu(c) r = Add(p, shift) {DIVIDES[case]}"
    if "shift" in divides:  # the first part is far from 0, the second is not
        needed["shift"] = np.array([9, 9, 9, 1e-6, 1e-6, 1e-6], np.float32)
    model, made = converted(bench, divides, mode, **needed)
    for feed in made.feeds:
        assert np.isfinite(run(model, feed)["y"]).all()
        assert np.isfinite(made.run(feed)["y"]).all()


def test_the_reason_names_the_divisor(bench):
    _, made = converted(bench, DIVIDES["by itself"])
    (entry,) = [e for e in made.ledger.values() if e.op_type == "Conv"]
    assert entry.fate == "float"
    assert "'c' divides" in entry.reason


def test_a_divisor_far_from_zero_stays_an_integer(bench):
    _, made = converted(bench, "r = Relu(c) far = Add(r, one) d = Div(x1, far) y = Mul(d, d)", one=5.0, x1=2.0)
    (entry,) = [e for e in made.ledger.values() if e.op_type == "Conv"]
    assert entry.fate == "integer"
