"""Passes and calibrators are found by name, ours and those of other packages, and take only options that they have."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest

from quantcli import foreign, plugins
from quantcli.errors import RecipeError
from quantcli.recipe import Recipe, Step


@dataclass(frozen=True)
class Foreign:
    """A pass of another package."""

    strength: float = 0.5
    label: str = "x"
    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state, tick):
        del tick
        return state


@dataclass(frozen=True)
class ForeignCalibrator:
    """A calibrator of another package."""

    def observer(self, spec):
        return spec

    def range(self, stats, spec):
        return stats, spec


class Plain:
    """A pass of another package that is no dataclass."""

    needs = gives = frozenset()

    def __init__(self, strength=1):
        self.strength = strength

    def __call__(self, state, tick):
        del tick
        return state


@pytest.fixture
def elsewhere(monkeypatch):
    points = [
        EntryPoint("foreign", f"{__name__}:Foreign", "quantcli.passes"),
        EntryPoint("plain", f"{__name__}:Plain", "quantcli.passes"),
        EntryPoint("emit", f"{__name__}:Foreign", "quantcli.passes"),
        EntryPoint("foreign", f"{__name__}:ForeignCalibrator", "quantcli.calibrators"),
    ]
    monkeypatch.setattr(foreign, "entry_points", lambda *, group: [p for p in points if p.group == group])


def made(name, **options):
    (found,) = plugins.passes_of(Recipe("r", passes=(Step(name, options),)))
    return found.run


def failure(name, **options):
    with pytest.raises(RecipeError) as caught:
        made(name, **options)
    return caught.value.message


# ---- ours ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [*plugins.PASSES.values(), *plugins.CALIBRATORS.values()])
def test_every_name_of_the_table_leads_to_a_class(target):
    module, _, attribute = target.partition(":")
    assert isinstance(getattr(importlib.import_module(module), attribute), type)


@pytest.mark.parametrize("name", plugins.PASSES)
def test_every_pass_says_what_it_needs_and_gives(name):
    run = made(name)
    assert isinstance(run.needs, frozenset)
    assert isinstance(run.gives, frozenset)


@pytest.mark.parametrize("name", plugins.PASSES)
def test_every_pass_stands_in_the_module_of_its_name(name):
    assert plugins.PASSES[name].startswith(f"quantcli.passes.{name}:")


def test_passes_come_in_the_order_of_the_recipe():
    found = plugins.passes_of(Recipe("r", passes=(Step("verify"), Step("simplify"))))
    assert [p.name for p in found] == ["verify", "simplify"]


def test_passes_that_are_off_are_left_out():
    found = plugins.passes_of(Recipe("r", passes=(Step("verify", enabled=False), Step("simplify"))))
    assert [p.name for p in found] == ["simplify"]


def test_options_reach_the_pass():
    assert made("gptq", samples=7).samples == 7


def test_a_calibrator_is_given_by_name():
    assert type(made("calibrate", calibrator="minmax").calibrator).__name__ == "MinMax"


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("gtpq", {}, "unknown pass 'gtpq'; did you mean 'gptq'?"),
        ("banana", {}, "unknown pass 'banana'; known: widen, modernize, convert_opset, simplify, "),
        ("gptq", {"sampels": 3}, "'gptq' has no option 'sampels'; did you mean 'samples'?"),
        ("gptq", {"banana": 3}, "'gptq' has no option 'banana'; known: samples, rows"),
        ("simplify", {"banana": 3}, "'simplify' has no option 'banana'; known: none"),
        ("gptq", {"needs": 3}, "'gptq' has no option 'needs'"),
        ("simplify", {"calibrator": "minmax"}, "'simplify' has no option 'calibrator'"),
        ("calibrate", {"calibrator": "minmix"}, "unknown calibrator 'minmix'; did you mean 'minmax'?"),
        ("calibrate", {"calibrator": None}, "unknown calibrator 'None'"),
        ("gptq", {"samples": "many"}, "gptq.samples is 'many', expected int"),
        ("gptq", {"samples": 1.5}, "gptq.samples is 1.5, expected int"),
        ("gptq", {"samples": None}, "gptq.samples is None, expected int"),
        ("gptq", {"samples": True}, "gptq.samples is True, expected int"),
    ],
)
def test_what_is_unknown_or_of_a_wrong_type_is_an_error(name, options, expected):
    assert failure(name, **options).startswith(expected)


# ---- other packages --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("elsewhere")
def test_a_pass_of_another_package_is_found():
    assert made("foreign") == Foreign()


@pytest.mark.usefixtures("elsewhere")
def test_a_pass_of_another_package_takes_options():
    assert made("foreign", strength=0.25) == Foreign(0.25)


@pytest.mark.usefixtures("elsewhere")
def test_a_whole_number_is_a_number():
    assert made("foreign", strength=2).strength == 2


@pytest.mark.usefixtures("elsewhere")
def test_a_calibrator_of_another_package_is_found():
    assert made("calibrate", calibrator="foreign").calibrator == ForeignCalibrator()


@pytest.mark.usefixtures("elsewhere")
def test_a_plain_class_of_another_package_takes_options():
    assert made("plain", strength=3).strength == 3


@pytest.mark.usefixtures("elsewhere")
def test_our_names_cannot_be_taken():
    assert not isinstance(made("emit"), Foreign)


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("foriegn", {}, "unknown pass 'foriegn'; did you mean 'foreign'?"),
        ("foreign", {"strenght": 1.0}, "'foreign' has no option 'strenght'; did you mean 'strength'?"),
        ("foreign", {"strength": "high"}, "foreign.strength is 'high', expected float"),
        ("foreign", {"label": 5}, "foreign.label is 5, expected str"),
        ("plain", {"strenght": 1}, "'plain'"),
    ],
)
def test_other_packages_are_held_to_the_same_rules(name, options, expected):
    assert failure(name, **options).startswith(expected)
