"""The kernel table against the code that reads it."""

from __future__ import annotations

import pytest

from quantcli import recipe
from quantcli.kernels import FORMS as COLUMNS
from quantcli.kernels import KERNELS, NO_KERNEL, POINTWISE
from quantcli.lowering.integer import LOWERINGS
from quantcli.oprules import OP_RULES, POINTWISE_WITH_CONSTANT, Role
from quantcli.passes.emit import FORMS

ROWS = [*KERNELS.values(), POINTWISE]


def test_every_format_has_a_column_a_recipe_and_an_emitter():
    assert set(COLUMNS) == {*recipe.FORMATS, "wide"} - {"float"}
    assert set(FORMS) == {(name, wide) for name in ("qdq", "integer") for wide in (False, True)}


def test_every_lowering_of_the_table_is_written():
    wanted = {row.lowering for row in ROWS if row.integer.integer}
    assert wanted - LOWERINGS.keys() == {"read"}


def test_every_lowering_that_is_written_is_reached():
    reached = {row.lowering for row in ROWS} | {"product"}  # the planner's, for a MatMul of two activations
    assert LOWERINGS.keys() <= reached


def test_every_kernel_is_of_an_operator_with_a_rule():
    assert KERNELS.keys() <= OP_RULES.keys()


def test_every_pointwise_operator_is_written_as_a_table():
    rows = [KERNELS.get(op, POINTWISE) for op, rule in OP_RULES.items() if rule.role is Role.POINTWISE]
    assert {row.lowering for row in rows} == {"table"}


def test_an_operator_that_is_pointwise_with_a_constant_has_a_rule():
    assert OP_RULES.keys() >= POINTWISE_WITH_CONSTANT


@pytest.mark.parametrize("output_format", COLUMNS)
def test_whatever_stays_float_says_why(output_format):
    cells = [row.cell(output_format) for row in (*ROWS, NO_KERNEL)]
    assert all(cell.reason for cell in cells if not cell.integer or cell.near_linear_only)


def test_what_fuses_between_q_and_dq_has_an_integer_form_too():
    assert not [op for op, row in KERNELS.items() if row.qdq.integer and not row.integer.integer]
