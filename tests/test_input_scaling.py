"""A model's own normalisation is found by following the input."""

from __future__ import annotations

import models
import numpy as np
import onnx_ir as ir
import pytest

from quantcli.input_scaling import own_factor

C = np.float32([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)


def factor(body, inputs="float[1,3,8,8] x", **arrays):
    model = ir.from_proto(models.text(f"({inputs}) => (float[1,3,8,8] y) {{ {body} }}", **arrays))
    return own_factor(model.graph.inputs[0])


@pytest.mark.parametrize(
    ("body", "arrays", "expected"),
    [
        ("a = Mul(x, s) y = Relu(a)", {"s": np.float32(1 / 255)}, 1 / 255),
        ("a = Div(x, s) y = Relu(a)", {"s": np.float32(255)}, 1 / 255),
        ("a = Mul(s, x) b = Sub(a, m) c = Div(b, d) y = Relu(c)",
         {"s": np.float32(1 / 255), "m": C, "d": C}, 1 / 255 / 0.225),
        ("a = Sub(x, m) y = Relu(a)", {"m": C}, None),
        ("t = Transpose<perm = [0, 1, 3, 2]>(x) a = Mul(t, s) y = Relu(a)", {"s": np.float32(0.5)}, 0.5),
        ("y = Relu(x)", {}, None),
        ("a = Div(s, x) y = Relu(a)", {"s": np.float32(255)}, None),
        ("a = Mul(x, x) y = Relu(a)", {}, None),
        ("a = BatchNormalization<epsilon = 0.0>(x, g, b, b, v) y = Relu(a)",
         {"g": np.float32([2, 2, 2]), "b": np.zeros(3, np.float32), "v": np.float32([4, 4, 4])}, 1.0),
    ],
)  # fmt: skip
def test_factors_are_followed_to_the_first_other_operator(body, arrays, expected):
    found = factor(body, **arrays)
    assert found == (expected if expected is None else pytest.approx(expected, rel=1e-5))


def test_an_input_with_two_readers_is_not_scaled():
    assert factor("a = Mul(x, s) b = Relu(x) y = Add(a, b)", s=np.float32(0.1)) is None


def test_integers_are_cast_and_scaled():
    body = "f = Cast<to = 1>(x) a = Mul(f, s) y = Relu(a)"
    assert factor(body, "uint8[1,3,8,8] x", s=np.float32(1 / 127.5)) == pytest.approx(1 / 127.5)
