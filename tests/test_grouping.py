"""Tensors on one grid: what data movement keeps, what a join may ask of its operands, what is fixed beforehand."""

from __future__ import annotations

import models
import numpy as np
import pytest
from conversion import planned, run
from models import Fed, weight

IMAGE = "(float[1,4,4,4] x, float[1,4,4,4] z) => (float y) "
SOFTMAX, SIGMOID, TANH = (1 / 256, 0), (1 / 256, 0), (1 / 128, 128)


def groups(body, header=IMAGE, **arrays):
    return {"".join(sorted(g)) for g in planned(models.text(header + body, **arrays)).groups}


@pytest.mark.parametrize(
    "op",
    [
        "Transpose(x)",
        "Flatten(x)",
        "Identity(x)",
        "DepthToSpace<blocksize = 2>(x)",
        "MaxPool<kernel_shape = [2, 2]>(x)",
        "GlobalMaxPool(x)",
        "ReduceMax(x)",
        'Resize<mode = "nearest">(x, "", s)',
        "Pad(x, p)",
        "Slice(x, b, e)",
    ],
)
def test_data_movement_keeps_its_grid(op):
    arrays = {"s": np.ones(4, np.float32), "p": models.ints(*[0] * 7, 1), "b": models.ints(0), "e": models.ints(1)}
    assert groups(f"{{ y = {op} }}", **{n: a for n, a in arrays.items() if f" {n}" in op}) == {"xy"}


@pytest.mark.parametrize("op", ["AveragePool<kernel_shape = [2, 2]>(x)", "GlobalAveragePool(x)", "Abs(x)", "Add(x, z)"])
def test_what_computes_chooses_its_own_grid(op):
    assert groups(f"{{ y = {op} }}") == set()


def test_a_chain_of_data_movement_is_one_group():
    assert groups("{ a = Transpose(x) b = Flatten(a) y = Identity(b) }") == {"abxy"}


def test_every_part_of_a_split_keeps_the_grid():
    header = "(float[1,4,4,4] x) => (float y, float b) "
    assert groups("{ y, b = Split<axis = 1, num_outputs = 2>(x) }", header) == {"bxy"}


def test_data_movement_that_stays_float_is_exact_on_one_grid_too():
    body = "{ a = Conv(x, w) b = SpaceToDepth<blocksize = 2>(a) y = Conv(b, v) }"
    model = models.text(IMAGE + body, w=weight(4, 4, 1, 1), v=weight(4, 16, 1, 1))
    plan = planned(model, "full-integer")
    assert [sorted(g) for g in plan.groups] == [["a", "b"]]


@pytest.mark.parametrize("op", ["Concat<axis = 1>", "Max", "Min"])
def test_a_join_asks_its_grid_of_operands_that_nobody_else_reads(op):
    assert groups(f"{{ a = Exp(x) b = Abs(z) y = {op}(a, b) }}") == {"aby"}


def test_a_join_leaves_operands_alone_that_others_read():
    body = "{ a = Exp(x) b = Abs(z) c = Concat<axis = 1>(a, b) d = Concat<axis = 1>(b, b) y = Mul(c, d) }"
    assert groups(body) == {"ac"}


def test_a_join_leaves_inputs_and_outputs_of_the_graph_alone():
    header = "(float[1,4,4,4] x) => (float a, float y) "
    assert groups("{ a = Exp(x) y = Concat<axis = 1>(a, x) }", header) == set()


def test_a_join_takes_constants_along():
    assert groups("{ y = Max(x, c) }", c=weight(4, 1, 1)) == {"cy"}


SWAPPED, HALVES = "Transpose<perm = [0, 1, 3, 2]>(a)", "Split<axis = 1, num_outputs = 2>(a)"
JOINED = "Concat<axis = 1>(t, b)"


@pytest.mark.parametrize(
    ("outputs", "body"),
    [
        ("(float d, float y) ", f"{{ a = Exp(x) t = {SWAPPED} b = Abs(z) y = {JOINED} d = MatMul(a, a) }}"),
        ("(float d, float y) ", f"{{ a = Exp(x) t, d = {HALVES} b = Abs(z) y = {JOINED} }}"),
        ("(float a, float y) ", f"{{ a = Exp(x) t = {SWAPPED} b = Abs(z) y = {JOINED} }}"),
    ],
    ids=["another-reader", "another-part", "an-output"],
)  # fmt: skip
def test_a_join_does_not_reach_through_data_movement_to_what_others_see(outputs, body):
    header = "(float[1,4,4,4] x, float[1,4,4,4] z) => " + outputs
    assert not any(g >= {"a", "y"} for g in planned(models.text(header + body)).groups)


# ---- grids that are fixed beforehand ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("op", "grid"), [("Softmax", SOFTMAX), ("Sigmoid", SIGMOID), ("Tanh", TANH)])
def test_bounded_results_have_a_fixed_grid(op, grid):
    assert planned(models.text(IMAGE + f"{{ y = {op}(x) }}")).fixed == {"y": grid}


@pytest.mark.parametrize(("op", "grid"), [("Softmax", SOFTMAX), ("Sigmoid", SIGMOID), ("Tanh", TANH)])
def test_a_fixed_grid_is_what_is_written(bench, op, grid):
    written = bench.convert(models.text(f"(float[4,6] x) => (float[4,6] y) {{ y = {op}(x) }}")).grids["y"]
    assert (float(written.scale), int(written.zero_point)) == (grid[0], grid[1] - 128)


def test_a_fixed_grid_moves_on_with_data_movement():
    plan = planned(models.text(IMAGE + "{ a = Softmax(x) b = Transpose(a) y = Flatten(b) }"))
    assert plan.fixed == dict.fromkeys("aby", SOFTMAX)


def test_inside_a_region_nothing_is_fixed():
    assert planned(models.text(IMAGE + "{ s = Sigmoid(x) y = Mul(x, s) }")).fixed == {}


def test_a_bounded_end_of_a_region_is_fixed():
    assert planned(models.text(IMAGE + "{ a = Add(x, c) y = Tanh(a) }", c=2.0)).fixed == {"y": TANH}


def test_a_join_of_operands_on_one_fixed_grid_is_on_it():
    plan = planned(models.text(IMAGE + "{ a = Softmax(x) b = Sigmoid(z) y = Concat<axis = 1>(a, b) }"))
    assert plan.fixed == dict.fromkeys("aby", SOFTMAX)


def test_a_join_of_two_fixed_grids_holds_both_ranges(bench):
    model = models.text("(float[4,6] x) => (float[8,6] y) { a = Sigmoid(x) b = Tanh(x) y = Concat<axis = 0>(a, b) }")
    check_no_saturation(bench.convert(model))


@pytest.mark.parametrize("order", ["a, b", "b, a"])
def test_a_fixed_grid_is_not_forced_on_a_wider_operand_of_a_join(bench, order):
    model = models.text(
        f"(float[4,6] x) => (float[8,6] y) {{ a = Sigmoid(x) b = MatMul(x, w) y = Concat<axis = 0>({order}) }}",
        w=weight(6, 6) * 50,
    )
    check_no_saturation(bench.convert(model))


@pytest.mark.parametrize("op", ["Max", "Min"])
def test_a_fixed_grid_is_not_forced_on_a_wider_operand_of_an_extremum(bench, op):
    model = models.text(
        f"(float[4,6] x, float[4,6] z) => (float[4,6] y) {{ a = Tanh(x) b = Mul(x, z) y = {op}(a, b) }}"
    )
    ranges = {"x": Fed((4, 6), -5, 5), "z": Fed((4, 6), -5, 5)}
    check_no_saturation(bench.convert(model, feeds=models.samples(model, ranges=ranges)))


def check_no_saturation(converted):
    """The grid of the output holds what the float output took."""
    grid = converted.grids["y"]
    values = np.concatenate([run(converted.float_model, f)["y"].ravel() for f in converted.feeds])
    low, high = ((q - int(grid.zero_point)) * float(grid.scale) for q in (-128, 127))
    step = float(grid.scale)
    assert low - step <= values.min()
    assert values.max() <= high + step


# ---- where a saturating function makes the ends of a range useless ---------------------------------------------------


@pytest.mark.parametrize(("op", "reach"), [("Sigmoid", 8), ("Tanh", 4), ("HardSigmoid", 2.5)])
def test_what_only_a_saturating_function_reads_needs_no_range_beyond(bench, op, reach):
    source = f"(float[4,6] x) => (float[4,6] y) {{ a = MatMul(x, w) b = {op}(a) y = MatMul(b, w) }}"
    converted = bench.convert(models.text(source, w=weight(6, 6) * 40))
    grid = converted.grids["a"]
    ends = [(q - int(grid.zero_point)) * float(grid.scale) for q in (0, 255)]
    assert ends == pytest.approx([-reach, reach], rel=0.02)


def test_what_something_else_reads_too_keeps_its_range(bench):
    source = "(float[4,6] x) => (float y) { a = MatMul(x, w) b = Sigmoid(a) c = Transpose(a) y = MatMul(b, c) }"
    model = models.text(source, w=weight(6, 6) * 40)
    grid = bench.convert(model).grids["a"]
    assert 255 * float(grid.scale) > 100


def test_what_magnifies_the_flat_end_of_a_saturating_function_needs_the_range(bench):
    source = "(float[4,6] x) => (float[4,6] y) { a = MatMul(x, w) s = Sigmoid(a) l = Log(s) y = MatMul(l, w) }"
    model = models.text(source, w=np.eye(6, dtype=np.float32))
    converted = bench.convert(model, feeds=models.samples(model, ranges={"x": Fed((4, 6), -14, 14)}))
    grid = converted.grids["a"]
    assert (0 - int(grid.zero_point)) * float(grid.scale) < -13
