"""The arithmetic of quantization, against the reference vectors of LiteRT, onnxruntime and AIMET, and its laws."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from models import text

from quantcli import affine
from quantcli.dtypes import INT4, INT8, INT16, INT32, UINT4, UINT8, UINT16
from quantcli.quant import PerAxis, PerTensor, QuantSpec

I8, U8, I16, U16 = (QuantSpec(t, symmetric=False) for t in (INT8, UINT8, INT16, UINT16))
NARROW = QuantSpec(INT8, symmetric=True, narrow_range=True)
BY_CHANNEL = QuantSpec(INT8, symmetric=True, granularity=PerAxis(0), narrow_range=True)

SPECS = [
    QuantSpec(t, symmetric=s, narrow_range=n)
    for t, s, n in product((INT4, UINT4, INT8, UINT8, INT16, UINT16), (True, False), (True, False))
    if not n or (s and t.signed)
]
ALL_SPECS = {f"{s.dtype.name}{'-symmetric' * s.symmetric}{'-narrow' * s.narrow_range}": s for s in SPECS}
each_spec = pytest.mark.parametrize("spec", ALL_SPECS.values(), ids=ALL_SPECS)

HALF = 0.5 + 2**-7  # of a step; the rest is the float32 rounding of 65535 steps
reals = st.floats(-1e6, 1e6, width=32)
arrays = hnp.arrays(np.float32, hnp.array_shapes(max_dims=2, max_side=6), elements=reals)


def f32(*values):
    return np.array(values, np.float32)


def grid_of(real, spec):
    return affine.choose_params(real.min(), real.max(), spec)


# ---- reference vectors -----------------------------------------------------------------------------------------------

VECTORS = [
    # range, asymmetric scale of 8 bits, zero point of int8 and uint8, symmetric scale of int8 and int16
    ((-1, 3), 0.0156862745, -64, 64, 0.0236220472, 9.15555e-5),
    ((-0.5, 3.5), 0.0156862745, -96, 32, 0.0275590551, 1.068148e-4),
    ((0.2, 5), 0.0196078431, -128, 0, 0.0393700787, 1.525925e-4),
    ((-6, -1), 0.0235294118, 127, 255, 0.0472440945, 1.831111e-4),
    ((0, 6), 0.0235294118, -128, 0, 0.0472440945, 1.831111e-4),
    ((-1.8, 0.5), 0.0090196078, 72, 200, 0.0141732283, 5.493332e-5),
]


def each_range(column):
    """Parametrize a test with the range and one column of the vectors."""
    rows = [(v[0], v[column]) for v in VECTORS]
    return pytest.mark.parametrize(("ends", "expected"), rows, ids=[str(v[0]) for v in VECTORS])


@each_range(1)
@pytest.mark.parametrize("spec", [I8, U8], ids=["int8", "uint8"])
def test_asymmetric_scale(ends, expected, spec):
    assert float(affine.choose_params(*ends, spec).scale) == pytest.approx(expected, rel=1e-7)


@each_range(2)
def test_int8_zero_point(ends, expected):
    assert affine.choose_params(*ends, I8).zero_point == expected


@each_range(3)
def test_uint8_zero_point(ends, expected):
    assert affine.choose_params(*ends, U8).zero_point == expected


@each_range(4)
def test_symmetric_int8_scale(ends, expected):
    assert float(affine.choose_params(*ends, NARROW).scale) == pytest.approx(expected, rel=1e-7)


@each_range(5)
def test_symmetric_int16_scale(ends, expected):
    spec = QuantSpec(INT16, symmetric=True)
    assert float(affine.choose_params(*ends, spec).scale) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("ends", [v[0] for v in VECTORS], ids=str)
def test_symmetric_zero_point_is_zero(ends):
    assert affine.choose_params(*ends, NARROW).zero_point == 0


def test_symmetric_int4_covers_seven_steps():
    assert affine.choose_params(-3, 1, QuantSpec(INT4, symmetric=True)).scale == np.float32(3 / 7)


@pytest.mark.parametrize(
    ("low", "spec", "zero"), [(-2.5, U8, 2), (-3.5, U8, 4), (-2.5, I8, -126), (-3.5, I8, -124)], ids=str
)
def test_a_half_zero_point_goes_to_the_even_integer(low, spec, zero):
    assert affine.choose_params(low, low + 255, spec).zero_point == zero


@pytest.mark.parametrize(("spec", "zero"), [(U8, 127), (I8, -1)], ids=["uint8", "int8"])
def test_the_zero_point_belongs_to_the_float32_scale(spec, zero):
    # 127.5 steps of 5/255, but only 127.499995 of the float32 number that stands in the model
    assert affine.choose_params(-2.5, 2.5, spec).zero_point == zero


def test_zero_points_are_those_of_onnxruntime():
    model = text("(float[2] x) => (uint8[2] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear(x) }")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ranges = [*np.sort(np.random.default_rng(0).normal(0, 3, (200, 2)).astype(np.float32)), f32(-2.5, 2.5)]
    found = [int(affine.choose_params(*ends, U8).zero_point) for ends in ranges]
    assert found == [int(session.run(["z"], {"x": ends})[0]) for ends in ranges]


def test_qualcomm_example_quantizes_to_the_same_integers():
    real = f32(-1.8, -1, 0, 0.5)
    assert affine.quantize(real, grid_of(real, U8)).tolist() == [0, 89, 200, 255]


def test_qualcomm_example_comes_back_as_the_same_numbers():
    real = f32(-1.8, -1, 0, 0.5)
    expected = [-1.803922, -1.001176, 0, 0.496078]
    assert affine.fake_quantize(real, grid_of(real, U8)) == pytest.approx(expected, abs=1e-6)


def test_qualcomm_example_has_the_same_ends():
    grid = affine.choose_params(-1.8, 0.5, U8)
    assert (grid.low, grid.high) == pytest.approx((-1.803922, 0.496078), abs=1e-6)


# ---- laws of parameters ----------------------------------------------------------------------------------------------


@each_spec
@settings(max_examples=25, deadline=None)
@given(real=arrays)
def test_zero_is_exact(spec, real):
    assert affine.fake_quantize(f32(0), grid_of(real, spec)).tolist() == [0]


@each_spec
@settings(max_examples=25, deadline=None)
@given(real=arrays)
def test_round_trip_is_within_half_a_step(spec, real):
    grid = grid_of(real, spec)
    error = np.abs(affine.fake_quantize(real, grid).astype(np.float64) - real)
    assert error.max() <= float(grid.scale) * HALF


@each_spec
def test_the_ends_of_the_range_are_within_half_a_step(spec):
    ends = f32(-0.7, 0.7)
    grid = affine.choose_params(*ends, spec)
    error = np.abs(affine.fake_quantize(ends, grid).astype(np.float64) - ends)
    assert error.max() <= float(grid.scale) * HALF


@each_spec
@settings(max_examples=25, deadline=None)
@given(real=arrays)
def test_integers_come_back_as_themselves(spec, real):
    grid = grid_of(real, spec)
    integers = np.linspace(spec.qmin, spec.qmax, 16).astype(spec.dtype.storage)
    assert np.array_equal(affine.quantize(affine.dequantize(integers, grid), grid), integers)


@each_spec
@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0, 0), (-0.0, 0.0), (1, 1), (-1, -1), (1e-45, 1e-45), (0, 1e-45), (-1e-45, 1e-40), (-1e-38, 1e-38),
        (3.4028235e38, 3.4028235e38), (-3.4028235e38, 3.4028235e38), (-1e-45, 3.4028235e38),
    ],
)  # fmt: skip
def test_every_range_has_a_usable_scale(spec, low, high):
    scale = affine.choose_params(low, high, spec).scale
    assert np.isfinite(scale)
    assert scale >= affine.SMALLEST_SCALE


@each_spec
def test_an_empty_range_has_scale_one(spec):
    assert affine.choose_params(0, 0, spec).scale == 1


@pytest.mark.parametrize(("low", "zero"), [(0.0, 0), (-0.0, 0)])
def test_minus_zero_is_zero(low, zero):
    assert affine.choose_params(low, 1, U8).zero_point == zero


def test_the_scale_of_two_smallest_scales_is_normal():
    smallest = affine.choose_params(0, 1e-45, U8).scale
    assert smallest * smallest >= np.finfo(np.float32).tiny


def test_the_asked_smallest_scale_is_kept():
    assert affine.choose_params(-1, 1, NARROW, smallest_scale=0.5).scale == 0.5


def test_a_larger_scale_than_the_smallest_stays():
    assert affine.choose_params(-127, 127, NARROW, smallest_scale=0.5).scale == 1


def test_zero_is_exact_with_the_asked_smallest_scale():
    grid = affine.choose_params(-1, 1, U8, smallest_scale=0.5)
    assert affine.fake_quantize(f32(0), grid) == 0


def test_numbers_are_rank_zero_per_tensor():
    grid = affine.choose_params(-1, 1, U8)
    assert (grid.scale.shape, grid.zero_point.shape) == ((), ())


@each_spec
def test_numbers_have_the_types_of_the_specification(spec):
    grid = affine.choose_params(-1, 1, spec)
    assert (grid.scale.dtype, grid.zero_point.dtype) == (np.float32, np.dtype(spec.dtype.storage))


def test_numbers_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        affine.choose_params(-1, 1, U8).scale[...] = 2


def test_exact_grids_are_exact():
    grid = affine.exact_grid(1 / 256, 0)
    assert (float(grid.scale), int(grid.zero_point), grid.spec.dtype) == (1 / 256, 0, UINT8)


# ---- rounding --------------------------------------------------------------------------------------------------------

UNIT = affine.choose_params(-128, 127, I8)  # scale 1, zero point 0


def test_halves_go_to_the_even_integer():
    assert affine.quantize(f32(-2.5, -1.5, -0.5, 0.5, 1.5, 2.5), UNIT).tolist() == [-2, -2, 0, 0, 2, 2]


@pytest.mark.parametrize("far", [127.6, 1e6, 3.4e38, np.inf])
def test_large_numbers_saturate(far):
    assert affine.quantize(f32(far, -far), UNIT).tolist() == [127, -128]


def test_numbers_whose_quotient_overflows_saturate():
    grid = affine.choose_params(-1e-3, 1e-3, I8)
    assert affine.quantize(f32(3e38, -3e38), grid).tolist() == [127, -128]


def test_narrow_range_saturates_at_its_smallest_integer():
    assert affine.quantize(f32(-200), affine.choose_params(-127, 127, NARROW)) == -127


def test_minus_zero_becomes_the_zero_point():
    assert affine.quantize(f32(-0.0), affine.choose_params(-1, 3, U8)) == 64


def test_dequantized_zero_has_no_sign():
    assert not np.signbit(affine.fake_quantize(f32(-0.0), UNIT)).any()


@pytest.mark.parametrize("spec", [I8, U8, I16, U16], ids=lambda s: s.dtype.name)
def test_integers_are_those_of_onnxruntime(spec):
    real = np.random.default_rng(0).normal(0, 2, 4096).astype(np.float32)
    grid = affine.choose_params(-3, 5, spec)
    model = text(
        f"(float[n] x) => ({spec.dtype.name}[n] y) {{ y = QuantizeLinear(x, s, z) }}", s=grid.scale, z=grid.zero_point
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.array_equal(affine.quantize(real, grid), session.run(None, {"x": real})[0])


@pytest.mark.parametrize("spec", [I8, U8, I16, U16], ids=lambda s: s.dtype.name)
def test_real_numbers_are_those_of_onnxruntime(spec):
    grid = affine.choose_params(-3, 5, spec)
    integers = np.linspace(spec.qmin, spec.qmax, 4096).astype(spec.dtype.storage)
    source = f"({spec.dtype.name}[n] x) => (float[n] y) {{ y = DequantizeLinear(x, s, z) }}"
    model = text(source, s=grid.scale, z=grid.zero_point)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert np.array_equal(affine.dequantize(integers, grid), session.run(None, {"x": integers})[0])


# ---- per axis --------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=4), elements=reals), st.data())
def test_per_axis_is_a_stack_of_per_tensor(weight, data):
    axis = data.draw(st.integers(-weight.ndim, weight.ndim - 1))
    spec = QuantSpec(INT8, symmetric=True, granularity=PerAxis(axis), narrow_range=True)
    whole = affine.fake_quantize(weight, affine.weight_params(weight, spec))
    slices = [affine.fake_quantize(w, affine.weight_params(w, NARROW)) for w in np.moveaxis(weight, axis, 0)]
    assert np.array_equal(whole, np.moveaxis(np.stack(slices), 0, axis))


def test_a_weight_has_one_scale_for_each_channel():
    weight = np.zeros((3, 4, 2, 2), np.float32)
    assert affine.weight_params(weight, BY_CHANNEL).scale.shape == (3,)


def test_an_empty_weight_has_one_scale_for_each_channel():
    assert affine.weight_params(np.zeros((3, 0), np.float32), BY_CHANNEL).scale.shape == (3,)


def test_a_dead_channel_has_scale_one():
    assert affine.weight_params(np.array([[0, 0], [1, -127]], np.float32), BY_CHANNEL).scale.tolist() == [1, 1]


def test_a_dead_channel_stays_zero():
    weight = np.array([[0, 0], [1, -127]], np.float32)
    assert affine.fake_quantize(weight, affine.weight_params(weight, BY_CHANNEL))[0].tolist() == [0, 0]


def test_a_weight_uses_the_integers_of_its_largest_value():
    weight = np.array([[0.1, -0.3], [5, 2]], np.float32)
    assert np.abs(affine.quantize(weight, affine.weight_params(weight, BY_CHANNEL))).max(axis=1).tolist() == [127, 127]


# ---- biases ----------------------------------------------------------------------------------------------------------


def weights_of(*scales):
    return affine.choose_params(-127 * f32(*scales), 127 * f32(*scales), BY_CHANNEL)


def test_bias_scale_is_the_float32_product():
    weight = weights_of(0.1, 0.3, 1e-5)
    assert np.array_equal(affine.bias_params(0.7, weight).scale, np.float32(0.7) * weight.scale)


def test_bias_is_int32_without_zero_point():
    bias = affine.bias_params(0.7, weights_of(0.1, 0.3))
    assert (bias.spec.dtype, bias.zero_point.tolist()) == (INT32, [0, 0])


def test_bias_of_a_per_tensor_weight_is_per_tensor():
    bias = affine.bias_params(0.7, affine.choose_params(-1, 1, NARROW))
    assert (bias.spec.granularity, bias.scale.shape) == (PerTensor(), ())


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float64, 4, elements=st.floats(-1e4, 1e4)))
def test_bias_is_within_half_a_step(real):
    grid = affine.bias_params(0.02, weights_of(0.1, 0.3, 0.01, 1.0))
    error = affine.quantize_bias(real, grid) * grid.scale.astype(np.float64) - real
    assert (np.abs(error) <= 0.5 * grid.scale * (1 + 1e-6)).all()


def test_bias_keeps_the_low_bits_of_int32():
    grid = affine.bias_params(1.0, weights_of(1.0))
    assert affine.quantize_bias(np.array([2.0**30 + 1]), grid).tolist() == [2**30 + 1]


def test_bias_halves_go_to_the_even_integer():
    grid = affine.bias_params(1.0, weights_of(1.0, 1.0))
    assert affine.quantize_bias(np.array([0.5, 1.5]), grid).tolist() == [0, 2]


def test_bias_saturates():
    grid = affine.bias_params(1.0, weights_of(1.0, 1.0))
    assert affine.quantize_bias(np.array([-1e12, 1e12]), grid).tolist() == [-(2**31) + 1, 2**31 - 1]


def test_guarded_weight_range_is_that_of_litert():
    # specs 1.3: s_in .05, absmax .001, b 1e4: guarded absmax .0236556
    floor = affine.bias_scale_floor(f32(1e4), 0.05)
    weight = affine.weight_params(f32(0.001, -0.001).reshape(1, 2), BY_CHANNEL, smallest_scale=floor)
    assert weight.scale[0] * 127 == pytest.approx(0.0236556, rel=1e-5)


def test_guarded_bias_is_half_of_int32():
    floor = affine.bias_scale_floor(f32(1e4), 0.05)
    weight = affine.weight_params(f32(0.001, -0.001).reshape(1, 2), BY_CHANNEL, smallest_scale=floor)
    bias = affine.quantize_bias(f32(1e4), affine.bias_params(0.05, weight))
    assert bias[0] == pytest.approx(2**30, rel=1e-6)


def test_the_guard_leaves_small_biases_alone():
    floor = affine.bias_scale_floor(f32(0.1), 0.05)
    real = f32(0.3, -0.2).reshape(1, 2)
    unguarded = affine.weight_params(real, BY_CHANNEL)
    assert affine.weight_params(real, BY_CHANNEL, smallest_scale=floor).same_as(unguarded)


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-3, 1e5), st.floats(1e-6, 10), st.floats(1e-6, 10))
def test_a_guarded_bias_never_saturates(bias, input_scale, absmax):
    floor = affine.bias_scale_floor(f32(bias), np.float32(input_scale))
    weight = affine.weight_params(f32(absmax, -absmax).reshape(1, 2), BY_CHANNEL, smallest_scale=floor)
    integers = affine.quantize_bias(f32(bias), affine.bias_params(input_scale, weight))
    assert integers[0] <= 2**30 * (1 + 1e-6)


# ---- the other sign --------------------------------------------------------------------------------------------------


def test_int8_zero_point_is_that_of_uint8_minus_128():
    assert affine.shifted_to(affine.choose_params(-1, 3, U8), I8).zero_point == -64


def test_uint8_zero_point_is_that_of_int8_plus_128():
    assert affine.shifted_to(affine.choose_params(-1, 3, I8), U8).zero_point == 64


@pytest.mark.parametrize(("high", "zero"), [(1.0, -128), (-1.0, 127)])
def test_zero_points_at_the_ends_shift(high, zero):
    assert affine.shifted_to(affine.choose_params(high, high, U8), I8).zero_point == zero


@settings(max_examples=40, deadline=None)
@given(arrays)
def test_shifted_integers_are_128_less(real):
    grid = grid_of(real, U8)
    shifted = affine.quantize(real, affine.shifted_to(grid, I8)).astype(int)
    assert np.array_equal(shifted, affine.quantize(real, grid).astype(int) - 128)


@settings(max_examples=40, deadline=None)
@given(arrays)
def test_shifting_there_and_back_is_the_same_grid(real):
    grid = grid_of(real, U8)
    assert affine.shifted_to(affine.shifted_to(grid, I8), U8).same_as(grid)
