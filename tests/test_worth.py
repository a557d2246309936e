"""What is worth computing in integers where float is allowed."""

from __future__ import annotations

import conversion
import models

SQUARE = {"w": models.weight(6, 6), "v": models.weight(6, 6)}


def reasons(source: str, **constants: object) -> dict[str, str]:
    plan = conversion.planned(models.text(source, **(constants or SQUARE)), "full-integer")
    return dict(plan.skipped)


def test_a_sum_between_products_is_worth_it():
    assert reasons("(float[4,6] x) => (float[4,6] y) { a = MatMul(x, w) s = Add(a, x) y = MatMul(s, v) }") == {}


def test_a_sum_that_no_product_follows_stays_float():
    (reason,) = reasons("(float[4,6] x) => (float[4,6] y) { a = MatMul(x, w) y = Add(a, x) }", w=SQUARE["w"]).values()
    assert "nothing after it multiplies matrices" in reason


def test_a_sum_without_integers_before_it_stays_float():
    (reason,) = reasons("(float[4,6] x) => (float[4,6] y) { s = Add(x, x) y = MatMul(s, w) }", w=SQUARE["w"]).values()
    assert "no integer operator beside it" in reason


def test_data_movement_into_a_product_is_moved_as_integers():
    source = "(float[6,4] x) => (float[4,6] y) { t = Transpose<perm = [1, 0]>(x) y = MatMul(t, w) }"
    assert reasons(source, w=SQUARE["w"]) == {}
