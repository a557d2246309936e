"""Recipes are read strictly: whatever is not understood is an error with its line, and what is written reads back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcli import recipe, recipe_reader
from quantcli.dtypes import BY_NAME
from quantcli.errors import RecipeError
from quantcli.recipe import About, Recipe, Scheme, Step, TensorScheme

if TYPE_CHECKING:
    from collections.abc import Mapping

BASE: Mapping[str, Mapping[str, object]] = {
    "full": {
        "name": "full",
        "format": "integer",
        "scheme": {"weights": {"dtype": "int4", "symmetric": True}},
        "passes": ["simplify", {"calibrate": {"calibrator": "minmax"}}],
    },
    "derived": {"extends": "full", "name": "derived", "fallback": "refuse"},
}


def read(text):
    return recipe_reader.parse(text, where="r.yaml", base=BASE)


def failure(text):
    with pytest.raises(RecipeError) as caught:
        read(text)
    return caught.value.message


# ---- strictness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fromat: qdq", "r.yaml:1: unknown key 'fromat'; did you mean 'format'?"),
        ("name: a\n\nfallbak: float", "r.yaml:3: unknown key 'fallbak'; did you mean 'fallback'?"),
        ("name: a\nbanana: 1", "r.yaml:2: unknown key 'banana'; known: name, summary, about, needs_data, format, "),
        ("scheme:\n  wieghts: {}", "r.yaml:2: unknown key 'scheme.wieghts'; did you mean 'weights'?"),
        (
            "scheme:\n  weights:\n    dtype: int8\n    symetric: true",
            "r.yaml:4: unknown key 'scheme.weights.symetric'; did you mean 'symmetric'?",
        ),
        ("extends: full\nfromat: qdq", "r.yaml:2: unknown key 'fromat'; did you mean 'format'?"),
        (
            "extends: full\nscheme:\n  weights:\n    dtpe: int8",
            "r.yaml:4: unknown key 'scheme.weights.dtpe'; did you mean 'dtype'?",
        ),
    ],
)
def test_unknown_keys_are_errors_with_line_and_nearest_key(text, expected):
    assert failure(text).startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: 5", "r.yaml:1: name is 5, expected str"),
        ("name:", "r.yaml:1: name is None, expected str"),
        ("needs_data: 1", "r.yaml:1: needs_data is 1, expected bool"),
        ("needs_data: 'yes'", "r.yaml:1: needs_data is 'yes', expected bool"),
        ("exclude: op:Softmax", "r.yaml:1: exclude is 'op:Softmax', expected list"),
        ("passes: simplify", "r.yaml:1: passes is 'simplify', expected list"),
        ("scheme: int8", "r.yaml:1: scheme is 'int8', expected dict"),
        ("scheme:\n  weights: int8", "r.yaml:2: weights is 'int8', expected dict"),
        ("scheme:\n  weights:\n    symmetric: 1", "r.yaml:3: symmetric is 1, expected bool"),
        ("scheme:\n  weights:\n    dtype: 8", "r.yaml:3: dtype is 8, expected str"),
    ],
)
def test_wrong_types_are_errors_with_line_and_expectation(text, expected):
    assert failure(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("format: qqd", "r.yaml:1: format is 'qqd', expected qdq | integer | float; did you mean 'qdq'?"),
        ("fallback: ignore", "r.yaml:1: fallback is 'ignore', expected float | refuse"),
        (
            "inputs: int9",
            "r.yaml:1: inputs is 'int9', expected float32 | float16 | int8 | uint8 | int16; did you mean 'int8'",
        ),
        ("outputs: float64", "r.yaml:1: outputs is 'float64', expected float32 | float16 | int8 | uint8 | int16"),
        ("scheme:\n  weights:\n    dtype: int9", "r.yaml:3: dtype is 'int9', expected int4 | uint4 | int8"),
        ("scheme:\n  weights:\n    granularity: per-row", "r.yaml:3: granularity is 'per-row', expected per-tensor | "),
    ],
)
def test_wrong_values_are_errors_with_line_and_choices(text, expected):
    assert failure(text).startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nname: b", "r.yaml:2: not valid YAML: key 'name' given twice"),
        ("scheme:\n  weights: {}\n  weights: {}", "r.yaml:3: not valid YAML: key 'weights' given twice"),
        ("passes:\n  - gptq: {rows: 1, rows: 2}", "r.yaml:2: not valid YAML: key 'rows' given twice"),
    ],
)
def test_keys_given_twice_are_errors_with_line(text, expected):
    assert failure(text) == expected


@pytest.mark.parametrize(
    "text",
    ["name: [", "a: *b", "\tname: a", "name: !!python/object:os.system {}", "name: '\x00'", "name: 2020-13-45",
     "needs_data: !!int x"],
)  # fmt: skip
def test_what_is_not_yaml_is_an_error(text):
    assert failure(text).startswith("r.yaml")


@pytest.mark.parametrize(("text", "found"), [("- name", "list"), ("", "NoneType"), ("qdq", "str"), ("5", "int")])
def test_what_is_no_mapping_is_an_error(text, found):
    assert failure(text) == f"r.yaml: expected a mapping of settings, found {found}"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("[simplify]", "expected a name or one NAME: OPTIONS"),
        ("{simplify: {}, emit: {}}", "expected a name or one NAME: OPTIONS"),
        ("{}", "expected a name or one NAME: OPTIONS"),
        ("5", "expected a name or one NAME: OPTIONS"),
        ("", "expected a name or one NAME: OPTIONS"),
        ("gptq: 3", "passes.gptq: expected on, off or options, found 3"),
        ("gptq: 0", "passes.gptq: expected on, off or options, found 0"),
        ("gptq: 1", "passes.gptq: expected on, off or options, found 1"),
        ("gptq: [1]", "passes.gptq: expected on, off or options, found [1]"),
        ("gptq: maybe", "passes.gptq: expected on, off or options, found 'maybe'"),
    ],
)
def test_a_pass_is_a_name_with_options(entry, expected):
    assert expected in failure(f"passes:\n  - {entry}")


# ---- meaning ---------------------------------------------------------------------------------------------------------


def test_what_is_left_out_has_its_default():
    assert read("name: r") == Recipe("r")


def test_a_whole_recipe_is_read():
    text = """
name: r
summary: text
needs_data: false
format: integer
fallback: refuse
inputs: int8
outputs: uint8
exclude: [op:Softmax]
scheme:
  activations: {dtype: uint16, symmetric: true, granularity: per-channel, narrow_range: false}
  weights: {dtype: int4, symmetric: false, granularity: per-tensor, narrow_range: false}
passes: [simplify, {gptq: {rows: 5}}]
"""
    scheme = Scheme(TensorScheme("uint16", symmetric=True, granularity="per-channel"), TensorScheme("int4"))
    steps = (Step("simplify"), Step("gptq", {"rows": 5}))
    expected = Recipe("r", "text", needs_data=False, format="integer", fallback="refuse", inputs="int8",
                      outputs="uint8", exclude=("op:Softmax",), scheme=scheme, passes=steps)  # fmt: skip
    assert read(text) == expected


def test_part_of_a_scheme_leaves_the_rest_at_its_default():
    found = read("scheme: {weights: {dtype: int4}}").scheme
    assert found == Scheme(weights=TensorScheme("int4", symmetric=True, granularity="per-channel", narrow_range=True))


@pytest.mark.parametrize(
    ("entry", "step"),
    [
        ("gptq", Step("gptq")),
        ("gptq:", Step("gptq")),
        ("gptq: on", Step("gptq")),
        ("gptq: 'on'", Step("gptq")),
        ("gptq: {}", Step("gptq")),
        ("gptq: off", Step("gptq", enabled=False)),
        ("gptq: 'off'", Step("gptq", enabled=False)),
        ("gptq: {rows: 3}", Step("gptq", {"rows": 3})),
    ],
)
def test_passes_are_switched_and_given_options(entry, step):
    assert read(f"passes:\n  - {entry}").passes == (step,)


def test_passes_keep_their_order():
    assert [s.name for s in read("passes: [verify, simplify, emit]").passes] == ["verify", "simplify", "emit"]


@pytest.mark.parametrize(("entry", "runs"), [("gptq", True), ("gptq: off", False), ("simplify", False)])
def test_a_pass_runs_where_it_is_listed_and_not_off(entry, runs):
    assert read(f"passes:\n  - {entry}").enabled("gptq") is runs


# ---- extends ---------------------------------------------------------------------------------------------------------


def test_an_extending_recipe_has_what_it_does_not_say_from_its_base():
    assert read("extends: full\nname: r").format == "integer"


def test_what_an_extending_recipe_says_wins():
    assert read("extends: full\nformat: qdq").format == "qdq"


def test_mappings_are_merged_key_by_key():
    weights = read("extends: full\nscheme: {weights: {symmetric: false}}").scheme.weights
    assert (weights.dtype, weights.symmetric) == ("int4", False)


def test_lists_are_replaced():
    assert read("extends: full\npasses: [emit]").passes == (Step("emit"),)


def test_extending_goes_all_the_way_down():
    found = read("extends: derived\nname: r")
    assert (found.name, found.fallback, found.format) == ("r", "refuse", "integer")


def test_the_base_is_left_alone():
    read("extends: full\nscheme: {weights: {dtype: int8}}")
    assert BASE["full"]["scheme"] == {"weights": {"dtype": "int4", "symmetric": True}}


def test_an_unknown_base_is_an_error_with_the_nearest():
    assert failure("extends: ful") == "r.yaml: extends 'ful', which is not a mode; did you mean 'full'?"


@pytest.mark.parametrize("base", ["[full]", "{full: 1}", "5", "true"])
def test_a_base_is_one_name(base):
    assert "extends" in failure(f"extends: {base}")


# ---- round trip ------------------------------------------------------------------------------------------------------

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
scalars = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | words
tensor_schemes = st.builds(
    TensorScheme,
    dtype=st.sampled_from(sorted(BY_NAME)),
    symmetric=st.booleans(),
    granularity=st.sampled_from(recipe.GRANULARITIES),
    narrow_range=st.booleans(),
)
tensor_schemes = tensor_schemes.flatmap(
    lambda t: st.sampled_from([16, 32, 64]).map(lambda n: replace(t, block_size=n) if "block" in t.granularity else t)
)
options = st.dictionaries(words, scalars, max_size=3)
steps = st.builds(Step, words, options) | st.builds(Step, words, enabled=st.just(False))  # noqa: FBT003
recipes = st.builds(
    Recipe,
    name=words,
    summary=words,
    about=st.builds(About, words, words, words, words),
    needs_data=st.booleans(),
    format=st.sampled_from(recipe.FORMATS),
    fallback=st.sampled_from(recipe.FALLBACKS),
    inputs=st.sampled_from(recipe.IO_TYPES),
    outputs=st.sampled_from(recipe.IO_TYPES),
    io_types=st.just(recipe.IO_TYPES),
    exclude=st.lists(words, max_size=3).map(tuple),
    scheme=st.builds(Scheme, tensor_schemes, tensor_schemes),
    passes=st.lists(steps, max_size=4).map(tuple),
)


@settings(max_examples=60, deadline=None)
@given(recipes)
def test_a_dumped_recipe_parses_to_an_equal_one(wanted):
    assert recipe_reader.parse(wanted.dump(), where="dump") == wanted


@settings(max_examples=30, deadline=None)
@given(recipes)
def test_dumping_is_stable(wanted):
    assert recipe_reader.parse(wanted.dump(), where="dump").dump() == wanted.dump()


@settings(max_examples=30, deadline=None)
@given(recipes)
def test_the_compact_form_holds_everything_but_words(wanted):
    without = replace(wanted, summary="", about=About())
    assert recipe_reader.parse(wanted.compact(), where="compact") == without


def test_a_type_outside_of_those_allowed_is_an_error():
    said = failure("io_types: [float32]\ninputs: int8")
    assert said == "r.yaml:2: inputs is 'int8', expected float32"


def test_dumping_names_every_setting():
    assert list(recipe_reader.load_mapping(Recipe("r").dump(), where="dump")) == list(Recipe.__slots__)
