"""``--set PATH=VALUE`` changes what a recipe has, and refuses what it does not have."""

from __future__ import annotations

import pytest

from quantcli import recipe, recipe_reader
from quantcli.errors import UsageError
from quantcli.recipe import Recipe, Step
from quantcli.settings import with_overrides

RECIPE = Recipe("r", passes=(Step("simplify"), Step("gptq", {"rows": 5}), Step("verify", enabled=False)))


def changed(*wanted):
    return recipe_reader.from_mapping(with_overrides(recipe.to_mapping(RECIPE), wanted), where="r.yaml")


def failure(*wanted):
    with pytest.raises(UsageError) as caught:
        with_overrides(recipe.to_mapping(RECIPE), wanted)
    return caught.value.message


def step(name, *wanted):
    (found,) = [s for s in changed(*wanted).passes if s.name == name]
    return found


def test_no_setting_changes_nothing():
    assert changed() == RECIPE


def test_a_setting_is_changed():
    assert changed("format=integer").format == "integer"


def test_a_setting_inside_a_mapping_is_changed():
    assert changed("scheme.weights.dtype=int4").scheme.weights.dtype == "int4"


def test_values_are_yaml():
    assert changed("needs_data=false", "exclude=[a, b]").exclude == ("a", "b")


def test_a_value_may_hold_the_sign():
    assert changed("summary=a=b").summary == "a=b"


def test_the_last_setting_wins():
    assert changed("format=integer", "format=qdq").format == "qdq"


def test_the_given_mapping_is_left_alone():
    mapping = recipe.to_mapping(RECIPE)
    with_overrides(mapping, ["scheme.weights.dtype=int4", "passes.gptq.rows=9", "passes.simplify=off"])
    assert mapping == recipe.to_mapping(RECIPE)


# ---- passes ----------------------------------------------------------------------------------------------------------


def test_a_pass_is_switched_off():
    assert step("gptq", "passes.gptq=off").enabled is False


def test_a_pass_is_switched_on():
    assert step("verify", "passes.verify=on") == Step("verify")


def test_switching_on_keeps_the_options():
    assert step("gptq", "passes.gptq=on") == Step("gptq", {"rows": 5})


def test_an_option_of_a_pass_is_changed():
    assert step("gptq", "passes.gptq.rows=7").options == {"rows": 7}


def test_an_option_of_a_pass_is_added():
    assert step("gptq", "passes.gptq.samples=7").options == {"rows": 5, "samples": 7}


def test_the_other_passes_stay():
    assert [s for s in changed("passes.gptq=off").passes if s.name != "gptq"] == [RECIPE.passes[0], RECIPE.passes[2]]


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("format", "--set 'format': expected PATH=VALUE"),
        ("=qdq", "--set '=qdq': expected PATH=VALUE"),
        ("", "--set '': expected PATH=VALUE"),
        ("fromat=qdq", "--set 'fromat=qdq': the recipe has no 'fromat'; did you mean 'format'?"),
        ("banana=1", "--set 'banana=1': the recipe has no 'banana'; known: name, summary"),
        ("shceme.weights.dtype=int8", "the recipe has no 'shceme'; did you mean 'scheme'?"),
        ("scheme.wieghts.dtype=int8", "the recipe has no 'wieghts'; did you mean 'weights'?"),
        ("scheme.weights.dtpe=int8", "the recipe has no 'dtpe'; did you mean 'dtype'?"),
        ("scheme.weights.dtype.bits=8", "the recipe has no 'dtype'"),
        ("name.x=1", "the recipe has no 'name'"),
        ("format=[", "'[' is not a YAML value"),
        ("name=2020-13-45", "'2020-13-45' is not a YAML value"),
        ("passes=off", "expected passes.NAME=on|off or passes.NAME.OPTION=VALUE"),
        ("passes.gptq.rows.more=1", "expected passes.NAME=on|off or passes.NAME.OPTION=VALUE"),
        ("passes.gtpq=off", "the recipe has no pass 'gtpq'; did you mean 'gptq'?"),
        ("passes.gptq=maybe", "expected on or off, found 'maybe'"),
        ("passes.gptq=", "expected on or off, found ''"),
        ("passes.gptq.rows=[", "'[' is not a YAML value"),
    ],
)
def test_what_names_nothing_is_an_error(setting, expected):
    assert expected in failure(setting)
