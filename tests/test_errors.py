"""Every error carries one message, perhaps a hint, and the exit code that the command line promises."""

from __future__ import annotations

import pytest

from quantcli import errors
from quantcli.errors import (
    DatasetError,
    InputError,
    InternalError,
    ModelError,
    OutputError,
    PluginError,
    QualityError,
    QuantError,
    RecipeError,
    StatisticsError,
    UnsupportedError,
    UsageError,
    did_you_mean,
)

CODES = {
    QualityError: 1,
    UsageError: 2,
    OutputError: 2,
    InputError: 3,
    ModelError: 3,
    DatasetError: 3,
    RecipeError: 3,
    PluginError: 3,
    StatisticsError: 3,
    UnsupportedError: 4,
    InternalError: 70,
}
each_error = pytest.mark.parametrize("error", CODES, ids=lambda e: e.__name__)


@each_error
def test_exit_code_is_the_promised_one(error):
    assert error.exit_code == CODES[error]


def test_no_error_is_without_a_promised_exit_code():
    defined = {e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, QuantError)}
    assert defined - {QuantError} == set(CODES)


@each_error
def test_every_error_is_drawn_in_the_tree(error):
    assert error.__name__ in errors.__doc__


@each_error
def test_message_and_hint_are_kept(error):
    made = error("what is wrong", hint="what to do")
    assert (str(made), made.message, made.hint) == ("what is wrong", "what is wrong", "what to do")


@each_error
def test_a_hint_may_be_absent(error):
    assert error("what is wrong").hint is None


def test_kinds_are_distinct():
    assert len({e.kind for e in CODES}) == len(CODES)


def test_unsupported_carries_every_reason():
    assert UnsupportedError("no", reasons=(r for r in ("a", "b"))).reasons == ("a", "b")


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("wieght", ["weight", "bias"], "; did you mean 'weight'?"),
        ("conv", ["conv1", "conv2", "relu"], "; did you mean 'conv2' or 'conv1'?"),
        ("banana", ["weight", "bias"], ""),
        ("x", [], ""),
        ("", ["weight"], ""),
    ],
)
def test_near_names_are_proposed(name, known, expected):
    assert did_you_mean(name, known) == expected


def test_at_most_three_names_are_proposed():
    assert did_you_mean("conv", [f"conv{i}" for i in range(9)]).count("'conv") == 3


def test_names_may_come_from_any_iterable():
    assert did_you_mean("int9", (n for n in ("int8",))) == "; did you mean 'int8'?"
