"""Activations that products read are found with the constants that make their channels, and only where that is free."""

from __future__ import annotations

import models
import numpy as np
import onnx_ir as ir
import pytest

from quantcli import graph, rescaling, runtime
from quantcli.sites import find_sites

C = 6
W, V, G, B = models.weight(4, C), models.weight(C, 3), models.weight(C, seed=1) + 2, models.weight(C, seed=2)
ONE = np.ones(C, np.float32)

# What makes the activation "a" that y = MatMul(a, v) reads, and which constants take its factors.
MADE = {
    "product": ("a = MatMul(x, w)", {"w": W}, ["w"]),
    "gemm with bias": ("a = Gemm(x, w, b)", {"w": W, "b": B}, ["w", "b"]),
    "turned gemm": ("a = Gemm<transB = 1>(x, w, b)", {"w": W.T.copy(), "b": B}, ["w", "b"]),
    "product and sum": ("p = MatMul(x, w) a = Add(p, b)", {"w": W, "b": B}, ["w", "b"]),
    "layer normalization": ("p = MatMul(x, w) a = LayerNormalization(p, g, b)", {"w": W, "g": G, "b": B}, ["g", "b"]),
    "without bias": ("p = MatMul(x, w) a = LayerNormalization(p, g)", {"w": W, "g": G}, ["g"]),
    "spelled out": ("p = MatMul(x, w) n = Tanh(p) a = Mul(n, g)", {"w": W, "g": G}, ["g"]),
    "constant first": ("p = MatMul(x, w) n = Tanh(p) a = Mul(g, n)", {"w": W, "g": G}, ["g"]),
    "scale and shift": ("p = MatMul(x, w) n = Tanh(p) m = Mul(n, g) a = Add(m, b)", {"w": W, "g": G, "b": B},
                        ["g", "b"]),
    "rectified": ("p = MatMul(x, w) a = Relu(p)", {"w": W}, ["w"]),
    "gate": ("p = MatMul(x, w) u = MatMul(x, k) s = Sigmoid(p) a = Mul(s, u)", {"w": W, "k": W + 1}, ["k"]),
    "gate first": ("p = MatMul(x, w) u = MatMul(x, k) s = Sigmoid(p) a = Mul(u, s)", {"w": W, "k": W + 1}, ["k"]),
}  # fmt: skip

# What makes "a" so that nothing can take its factors.
NOTHING = {
    "an input": ("a = Identity(z)", {}),
    "no linear function": ("p = MatMul(x, w) a = Sigmoid(p)", {"w": W}),
    "one number for all": ("n = Tanh(z) a = Mul(n, s)", {"s": np.float32(2.0)}),
    "read twice": ("p = MatMul(x, w) a = Relu(p) r = Abs(p)", {"w": W}),
    "square": ("p = MatMul(x, w) a = Mul(p, p)", {"w": W}),
    "sum of two": ("p = MatMul(x, w) a = Add(p, z)", {"w": W}),
    "also read elsewhere": ("a = MatMul(x, w) r = Abs(a)", {"w": W}),
}


def model(made, extra="", **arrays):
    outputs = "float[2,3] y" + (", float[2,6] r" if "r =" in made else "")
    source = f"(float[2,4] x, float[2,{C}] z) => ({outputs}) {{ {made} y = MatMul(a, v) {extra} }}"
    return ir.from_proto(models.text(source, v=V, **arrays))


def site_of(found, name="a"):
    (site,) = [s for s in found if s.name == name]
    return site


@pytest.mark.parametrize("case", MADE)
def test_the_constants_that_make_the_channels_are_found(case):
    made, arrays, expected = MADE[case]
    site = site_of(find_sites(model(made, **arrays)))
    assert [m.node.inputs[m.index].name for m in site.makers] == expected


@pytest.mark.parametrize("case", NOTHING)
def test_where_nothing_takes_the_factors_there_are_no_makers(case):
    made, arrays = NOTHING[case]
    assert site_of(find_sites(model(made, **arrays))).makers == ()


@pytest.mark.parametrize("case", [*MADE, *NOTHING])
def test_applied_factors_leave_the_function(case):
    made, arrays, *_ = {**MADE, **NOTHING}[case]
    before = model(made, **arrays)
    after = before.clone()
    site = site_of(find_sites(after))
    added = rescaling.apply(site, np.array([0.25, 0.5, 1, 2, 4, 8]), graph.Names(after))
    feed = models.samples(ir.to_proto(before), 1)[0]
    expected, found = (runtime.load(m).run(feed) for m in (before, after))
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-5, atol=2e-6)
    assert len(added) == (not site.makers)


@pytest.mark.parametrize("case", MADE)
def test_applied_factors_divide_the_activation(case):
    made, arrays, _ = MADE[case]
    before, factors = model(made, **arrays), np.array([0.25, 0.5, 1, 2, 4, 8])
    after = before.clone()
    rescaling.apply(site_of(find_sites(after)), factors, graph.Names(after))
    feed = models.samples(ir.to_proto(before), 1)[0]
    expected, found = (runtime.load(m, outputs=["a"]).run(feed)["a"] for m in (before, after))
    np.testing.assert_allclose(found, expected / factors, rtol=2e-5, atol=2e-6)


def test_all_products_that_read_it_are_readers():
    found = find_sites(model("a = MatMul(x, w)", "q = MatMul(a, u)", w=W, u=V + 1))
    assert [n.inputs[1].name for n in site_of(found).readers] == ["v", "u"]


def test_a_weight_that_others_read_too_is_left_alone():
    text = "(float[2,6] x, float[2,6] z) => (float[2,3] y, float[2,3] q) { y = MatMul(x, v) q = MatMul(z, v) }"
    assert find_sites(ir.from_proto(models.text(text, v=V))) == []


def test_half_precision_is_left_alone():
    text = "(float16[2,6] x) => (float16[2,3] y) { y = MatMul(x, v) }"
    assert find_sites(ir.from_proto(models.text(text, v=V.astype(np.float16)))) == []


def test_an_output_of_the_model_keeps_its_values():
    text = f"(float[2,4] x) => (float[2,{C}] a, float[2,3] y) {{ a = MatMul(x, w) y = MatMul(a, v) }}"
    site = site_of(find_sites(ir.from_proto(models.text(text, w=W, v=V))))
    assert site.makers == ()


def test_vectors_scaled_elsewhere_stay_what_they_are():
    made = "p = MatMul(x, w) n = Tanh(p) a = Mul(n, g) r = Mul(z, g)"
    after = model(made, w=W, g=ONE)
    rescaling.apply(site_of(find_sites(after)), np.full(C, 2.0), graph.Names(after))
    feed = {"x": np.ones((2, 4), np.float32), "z": np.ones((2, C), np.float32)}
    np.testing.assert_array_equal(runtime.load(after).run(feed)["r"], np.ones((2, C)))
