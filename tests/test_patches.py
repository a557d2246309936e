"""The rows of a layer times its weight are what onnxruntime computes, whatever the geometry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import operator

from quantcli.patches import Window, conv_rows, plain_rows, same_pads

ALL = 10**9


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def run(x, weight, attributes):
    model = operator("Conv", [x.shape, weight], attributes)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x0": x})[0]


def convolved(x, weight, window):
    """Return the convolution by rows, (N, C_out, *out) flattened to (N * positions, C_out)."""
    rows = conv_rows(x, window, ALL)  # (G, P, K)
    kernels = weight.reshape(window.groups, weight.shape[0] // window.groups, -1)  # (G, M, K)
    return np.concatenate(list(rows @ kernels.transpose(0, 2, 1)), axis=1)


def expected(x, weight, window):
    attributes = {
        "strides": window.strides,
        "dilations": window.dilations,
        "pads": window.pads,
        "group": window.groups,
    }
    result = run(x, weight, attributes)
    return np.moveaxis(result, 1, -1).reshape(-1, weight.shape[0])


@st.composite
def geometries(draw):
    """Draw (batch, channels in, channels out, sizes, window) of a convolution with at least one output position."""
    spatial = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    each = st.tuples(*[st.integers(1, 3)] * spatial)
    window = Window(draw(each), draw(each), draw(each), draw(st.tuples(*[st.integers(0, 2)] * (2 * spatial))), groups)
    reach = [d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilations, strict=True)]
    sizes = tuple(r + draw(st.integers(0, 3)) for r in reach)
    channels = draw(st.integers(1, 2)) * groups, draw(st.integers(1, 2)) * groups
    return draw(st.integers(1, 2)), *channels, sizes, window


# ---- convolutions ----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(geometries())
def test_rows_times_weight_is_the_convolution(geometry):
    batch, channels, outputs, sizes, window = geometry
    x, weight = random(batch, channels, *sizes), random(outputs, channels // window.groups, *window.kernel, seed=1)
    assert np.allclose(convolved(x, weight, window), expected(x, weight, window), atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((2, 3, 9), Window((3,), (1,), (1,), (1, 1))),
        ((2, 3, 9), Window((3,), (2,), (2,), (0, 3))),
        ((2, 3, 8, 9), Window((3, 3), (1, 1), (1, 1), (1, 1, 1, 1))),
        ((1, 3, 8, 9), Window((3, 2), (2, 3), (1, 1), (0, 1, 2, 0))),
        ((1, 3, 8, 9), Window((2, 3), (1, 1), (3, 2), (1, 0, 0, 2))),
        ((1, 3, 8, 9), Window((1, 1), (1, 1), (1, 1), (0, 0, 0, 0))),
        ((1, 6, 8, 9), Window((3, 3), (1, 1), (1, 1), (1, 1, 1, 1), groups=3)),
        ((1, 6, 8, 9), Window((3, 3), (2, 2), (1, 1), (1, 1, 1, 1), groups=6)),
        ((1, 2, 5, 6, 7), Window((2, 3, 2), (1, 2, 1), (1, 1, 2), (0, 1, 1, 1, 0, 0))),
    ],
    ids=["1d", "1d-dilated", "2d", "2d-strided", "2d-dilated", "pointwise", "grouped", "depthwise", "3d"],
)
def test_usual_convolutions(shape, window):
    x, weight = random(*shape), random(6, shape[1] // window.groups, *window.kernel, seed=1)
    assert np.allclose(convolved(x, weight, window), expected(x, weight, window), atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(geometries(), st.integers(1, 200))
def test_at_most_so_many_rows_are_taken(geometry, most):
    batch, channels, _, sizes, window = geometry
    x = random(batch, channels, *sizes)
    assert conv_rows(x, window, most).shape[1] == min(most, conv_rows(x, window, ALL).shape[1])


def test_taken_rows_are_rows_of_the_whole():
    x, window = random(2, 3, 8, 9), Window((3, 3), (1, 1), (1, 1), (1, 1, 1, 1))
    whole = {row.tobytes() for row in conv_rows(x, window, ALL)[0]}
    assert {row.tobytes() for row in conv_rows(x, window, 20)[0]} <= whole


def test_taken_rows_are_distinct_positions():
    x, window = random(1, 1, 30, 30), Window((1, 1), (1, 1), (1, 1), (0, 0, 0, 0))
    assert len(np.unique(conv_rows(x, window, 100))) == 100


def test_taken_rows_come_from_every_sample_of_the_batch():
    x = np.broadcast_to(np.arange(4, dtype=np.float32)[:, None, None, None], (4, 1, 10, 10))
    rows = conv_rows(x, Window((1, 1), (1, 1), (1, 1), (0, 0, 0, 0)), 8)
    assert set(rows.ravel()) == {0, 1, 2, 3}


def test_rows_are_zero_where_the_input_is_padded():
    rows = conv_rows(np.ones((1, 1, 1), np.float32), Window((3,), (1,), (1,), (1, 1)), ALL)
    assert rows.tolist() == [[[0, 1, 0]]]


# ---- automatic pads --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["SAME_UPPER", "SAME_LOWER"]),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=3),
)
def test_same_pads_are_those_of_onnxruntime(kind, dimensions):
    sizes, kernel, strides = zip(*dimensions, strict=True)
    window = Window(kernel, strides, (1,) * len(sizes), (0,) * (2 * len(sizes)))
    x, weight = random(1, 1, *sizes), random(2, 1, *kernel, seed=1)
    automatic = run(x, weight, {"strides": strides, "auto_pad": kind})
    padded = replace(window, pads=same_pads(kind, sizes, window))
    assert np.allclose(convolved(x, weight, padded), np.moveaxis(automatic, 1, -1).reshape(-1, 2), atol=1e-4)


@pytest.mark.parametrize(("kind", "pads"), [("SAME_UPPER", (0, 1)), ("SAME_LOWER", (1, 0))])
def test_the_odd_pad_goes_to_the_named_side(kind, pads):
    assert same_pads(kind, [5], Window((2,), (1,), (1,), (0, 0))) == pads


def test_same_pads_reach_as_far_as_the_dilated_kernel():  # which onnxruntime refuses to run
    assert same_pads("SAME_UPPER", [5], Window((3,), (1,), (2,), (0, 0))) == (2, 2)


def test_strides_beyond_the_kernel_need_no_pads():
    assert same_pads("SAME_UPPER", [6], Window((1,), (2,), (1,), (0, 0))) == (0, 0)


# ---- plain rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3), (2, 1, 4, 3)])
def test_plain_rows_run_along_the_last_axis(shape):
    x = random(*shape)
    assert np.array_equal(plain_rows(x, ALL), x.reshape(1, -1, 3))


@pytest.mark.parametrize(("most", "taken"), [(1, 1), (7, 7), (24, 24), (25, 24)])
def test_at_most_so_many_plain_rows_are_taken(most, taken):
    assert plain_rows(random(4, 6, 3), most).shape == (1, taken, 3)


def test_plain_rows_are_spread_over_all():
    rows = plain_rows(np.arange(100, dtype=np.float32).reshape(100, 1), 10)
    assert rows.ravel().tolist() == list(range(0, 100, 10))
