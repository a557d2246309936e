"""Samples cross an integer boundary: float in, integers for the model, float out again."""

from __future__ import annotations

import numpy as np
import pytest

from quantcli import affine, feeding
from quantcli.dtypes import INT8, UINT8
from quantcli.quant import QuantSpec

INT8_GRID = affine.choose_params(-1, 3, QuantSpec(INT8, symmetric=False))
UINT8_GRID = affine.choose_params(-1, 3, QuantSpec(UINT8, symmetric=False))


def f32(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize(("grid", "expected"), [(INT8_GRID, [-128, -64, 127]), (UINT8_GRID, [0, 64, 255])])
def test_float_feeds_become_the_integers_of_the_boundary(grid, expected):
    assert feeding.to_integers({"x": f32(-1, 0, 3)}, {"x": grid})["x"].tolist() == expected


@pytest.mark.parametrize(("grid", "dtype"), [(INT8_GRID, np.int8), (UINT8_GRID, np.uint8)])
def test_integer_feeds_have_the_type_of_the_boundary(grid, dtype):
    assert feeding.to_integers({"x": f32(0)}, {"x": grid})["x"].dtype == dtype


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_every_float_type_is_quantized_as_float32(dtype):
    assert feeding.to_integers({"x": np.array([0, 3], dtype)}, {"x": UINT8_GRID})["x"].tolist() == [64, 255]


@pytest.mark.parametrize("array", [np.array([7], np.uint8), np.array([7]), np.array([True])], ids=str)
def test_feeds_that_are_no_floats_stay(array):
    assert feeding.to_integers({"x": array}, {"x": UINT8_GRID})["x"] is array


def test_feeds_beside_the_boundary_stay():
    array = f32(1)
    assert feeding.to_integers({"mask": array, "x": array}, {"x": UINT8_GRID})["mask"] is array


def test_the_fed_mapping_is_left_alone():
    feed = {"x": f32(1)}
    feeding.to_integers(feed, {"x": UINT8_GRID})
    assert feed == {"x": f32(1)}


def test_integer_results_become_float():
    found = feeding.to_floats({"y": np.array([0, 64, 255], np.uint8)}, {"y": UINT8_GRID})["y"]
    assert found == pytest.approx([-1.0039216, 0, 2.9960785])


def test_results_beside_the_boundary_stay():
    array = np.array([3])
    assert feeding.to_floats({"label": array}, {"y": UINT8_GRID})["label"] is array


@pytest.mark.parametrize("grid", [INT8_GRID, UINT8_GRID], ids=["int8", "uint8"])
def test_there_and_back_is_within_half_a_step(grid):
    real = np.linspace(-1, 3, 50, dtype=np.float32)
    back = feeding.to_floats(feeding.to_integers({"x": real}, {"x": grid}), {"x": grid})["x"]
    assert np.abs(back - real).max() <= grid.scale * (0.5 + 1e-4)
