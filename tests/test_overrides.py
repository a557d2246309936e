"""The calibrator of a conversion, its options, and the ranges of some tensors that are chosen otherwise."""

from __future__ import annotations

import flow
import models
import numpy as np
import onnx
import pytest

from quantcli import api, modes, plugins, recipe_reader
from quantcli.errors import RecipeError, UsageError
from quantcli.options import Options, resolved
from quantcli.recipe import Override, Recipe, Step

TWO = "(float[8,6] x) => (float[8,6] y) { a = MatMul(x, w) r = Relu(a) b = MatMul(r, v) y = Tanh(b) }"
POOLED = "(float[1,2,8,8] x) => (float[1,3,4,4] y) { p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) y = Conv(p, w) }"


@pytest.fixture
def two_layers():
    return models.text(TWO, w=models.weight(6, 6), v=models.weight(6, 6, seed=1))


def tailed(model, samples=8):
    feeds = models.samples(model, samples)
    feeds[0]["x"].flat[0] = 40  # one outlier
    return feeds


def overridden(*entries):
    return f"overrides=[{', '.join(entries)}]"


def ends(converted, name):
    grid = converted.grids[name]
    limits = np.iinfo(grid.zero_point.dtype)
    return tuple((q - int(grid.zero_point)) * float(grid.scale) for q in (limits.min, limits.max))


# ---- the calibrator of a conversion ----------------------------------------------------------------------------------


def test_the_calibrator_decides_what_is_observed_and_the_range(bench, two_layers):
    feeds = [{"x": np.full((8, 6), 1 + i, np.float32)} for i in range(3)]
    made = bench.convert(two_layers, feeds=feeds, calibrator="moving-average")
    assert made.result.report["ranges"]["x"] == [2, 2]


@pytest.mark.parametrize("mode", ["int8-only", "full-integer", "16x8"])
def test_a_percentile_leaves_an_outlier_out(bench, two_layers, mode):
    feeds = tailed(two_layers)
    seen = bench.convert(two_layers, mode, feeds=feeds, calibrator="minmax")
    made = bench.convert(two_layers, mode, "passes.calibrate.percentile=99", feeds=feeds, calibrator="percentile")
    assert seen.result.report["ranges"]["x"][1] == 40
    assert made.result.report["ranges"]["x"][1] < 10
    assert ends(made, "x")[1] < 10.1


def test_an_option_belongs_to_the_calibrator_that_is_named():
    recipe = resolved("int8-only", Options(calibrator="percentile", settings=("passes.calibrate.percentile=99.5",)))
    assert [s.options for s in recipe.passes if s.name == "calibrate"] == [
        {"calibrator": "percentile", "percentile": 99.5}
    ]


def test_another_calibrator_has_options_of_its_own(tmp_path):
    file = tmp_path / "mine.yaml"
    steps = [{s.name: dict(s.options)} for s in modes.resolve("int8-only").passes]
    steps = [{"calibrate": {"calibrator": "percentile", "percentile": 99.5}} if "calibrate" in s else s for s in steps]
    file.write_text(f"extends: int8-only\nname: mine\npasses: {steps}\n", "utf-8")
    recipe = resolved("", Options(recipe=file, calibrator="mse"))
    assert [s.options for s in recipe.passes if s.name == "calibrate"] == [{"calibrator": "mse"}]


@pytest.mark.parametrize(
    ("calibrator", "settings", "message"),
    [
        ("percentil", (), "unknown calibrator 'percentil'; did you mean 'percentile'"),
        (None, ("passes.calibrate.percentile=99",), "'auto' has no option 'percentile'; known: heedless"),
        ("minmax", ("passes.calibrate.percentile=99",), "'minmax' has no option 'percentile'; known: none"),
        ("percentile", ("passes.calibrate.percentil=99",), "has no option 'percentil'; did you mean 'percentile'"),
        ("percentile", ("passes.calibrate.percentile=many",), "percentile.percentile is 'many', expected float"),
        ("percentile", ("passes.calibrate.percentile=40",), "percentile is 40, expected a number above 50"),
        ("mse", ("passes.calibrate.calibrator=sqnr",), "exclude each other"),
    ],
)
def test_what_is_wrong_is_said(calibrator, settings, message):
    with pytest.raises(UsageError) as caught:
        resolved("int8-only", Options(calibrator=calibrator, settings=settings))
    assert message in caught.value.message


def test_a_mode_that_calibrates_nothing_takes_no_calibrator():
    with pytest.raises(UsageError, match="it calibrates nothing"):
        resolved("weight-only-int8", Options(calibrator="mse"))


# ---- overrides in the recipe -----------------------------------------------------------------------------------------


def parsed(*lines):
    return recipe_reader.parse("\n".join(["name: r", "overrides:", *lines]), where="r.yaml")


def test_overrides_are_read_and_dumped():
    recipe = parsed(
        "  - {tensor: 'enc/*', calibrator: percentile, percentile: 99.9}",
        "  - {tensor: y, range: [-1, 2]}",
    )
    assert recipe.overrides == (
        Override("enc/*", "percentile", {"percentile": 99.9}),
        Override("y", range=(-1.0, 2.0)),
    )
    assert recipe_reader.parse(recipe.dump(), where="dumped") == recipe


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{calibrator: mse}", "expected {tensor: PATTERN, calibrator: NAME}"),
        ("{tensor: x}", "expected {tensor: PATTERN, calibrator: NAME}"),
        ("{tensor: x, calibrator: mse, range: [0, 1]}", "expected {tensor: PATTERN, calibrator: NAME}"),
        ("x", "expected {tensor: PATTERN, calibrator: NAME}"),
        ("{tensor: x, range: [1, 0]}", "r.yaml:3: overrides: range of 'x' is [1, 0], expected [LOW, HIGH]"),
        ("{tensor: x, range: [0]}", "range of 'x' is [0], expected [LOW, HIGH]"),
        ("{tensor: x, range: [0, 1, 2]}", "range of 'x' is [0, 1, 2], expected [LOW, HIGH]"),
        ("{tensor: x, range: [0, .inf]}", "expected [LOW, HIGH]"),
        ("{tensor: x, range: [a, b]}", "expected [LOW, HIGH]"),
        ("{tensor: x, range: 3}", "range is 3, expected list"),
        ("{tensor: 3, range: [0, 1]}", "tensor is 3, expected str"),
        ("{tensor: x, range: [0, 1], percentile: 3}", "unknown key 'overrides.percentile'"),
    ],
)
def test_a_wrong_entry_is_an_error_that_says_what_was_expected(entry, message):
    with pytest.raises(RecipeError) as caught:
        parsed(f"  - {entry}")
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (Override("x", "mze"), "overrides: 'x': unknown calibrator 'mze'; did you mean 'mse'"),
        (Override("x", "mse", {"percentile": 9}), "overrides: 'x': 'mse' has no option 'percentile'"),
        (Override("x", "percentile", {"percentile": 9}), "expected a number above 50"),
    ],
)
def test_a_calibrator_of_an_override_is_checked_before_any_work(override, message):
    recipe = Recipe("r", overrides=(override,), passes=(Step("calibrate"),))
    with pytest.raises(RecipeError) as caught:
        plugins.passes_of(recipe)
    assert message in caught.value.message


def test_overrides_without_calibration_mean_nothing():
    with pytest.raises(RecipeError, match="no pass of 'r' chooses ranges"):
        plugins.passes_of(Recipe("r", overrides=(Override("x", "mse"),), passes=(Step("simplify"),)))


# ---- overrides in a conversion ---------------------------------------------------------------------------------------


def test_a_given_range_is_the_range(bench, two_layers):
    made = bench.convert(two_layers, "int8-only", overridden("{tensor: x, range: [-2, 6]}"), feeds=tailed(two_layers))
    assert made.result.report["ranges"]["x"] == [-2, 6]
    assert ends(made, "x") == pytest.approx((-2, 6), abs=0.03)


def test_a_range_is_widened_to_hold_zero(bench, two_layers):
    made = bench.convert(two_layers, "int8-only", overridden("{tensor: x, range: [2, 6]}"), feeds=tailed(two_layers))
    assert ends(made, "x") == pytest.approx((0, 6))


def test_only_what_matches_is_chosen_otherwise(bench, two_layers):
    feeds = tailed(two_layers)
    seen = bench.convert(two_layers, feeds=feeds).result.report["ranges"]
    entry = overridden("{tensor: x, calibrator: percentile, percentile: 99}")
    found = bench.convert(two_layers, "int8-only", entry, feeds=feeds).result.report["ranges"]
    assert found.pop("x")[1] < seen.pop("x")[1] / 4
    assert found == seen


@pytest.mark.parametrize("pattern", ["[xr]", "re:^(x|r)$"])
def test_patterns_name_several_tensors_and_the_last_entry_counts(bench, two_layers, pattern):
    entries = overridden(f"{{tensor: '{pattern}', range: [0, 3]}}", "{tensor: r, range: [0, 5]}")
    found = bench.convert(two_layers, "int8-only", entries, feeds=tailed(two_layers)).result.report["ranges"]
    assert (found["x"], found["r"]) == ([0, 3], [0, 5])


@pytest.mark.parametrize("tensor", ["x", "p"])
def test_of_tensors_that_share_a_grid_the_one_with_an_entry_decides(bench, tensor):
    model = models.text(POOLED, w=models.weight(3, 2, 3, 3)[:, :, :1, :1])
    feeds = tailed(model)
    made = bench.convert(model, "int8-only", overridden(f"{{tensor: {tensor}, range: [-1, 2]}}"), feeds=feeds)
    assert ends(made, "x") == ends(made, "p") == pytest.approx((-1, 2), abs=0.02)


@pytest.mark.parametrize("kind", flow.MODELS)
def test_a_pattern_may_match_inside_a_body(bench, kind):
    model = flow.MODELS[kind]()
    feeds = flow.both_ways(model)
    plain = bench.convert(model, "full-integer", feeds=feeds)
    inside = sorted(n for n in plain.result.report["ranges"] if n.endswith("_r"))
    made = bench.convert(model, "full-integer", overridden(f"{{tensor: {inside[0]}, range: [-64, 64]}}"), feeds=feeds)
    assert made.result.report["ranges"][inside[0]] == [-64, 64]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("lay", "overrides: 'lay' matches no tensor of the model"),
        ("nothing*", "overrides: 'nothing*' matches no tensor of the model"),
        ("w", "overrides: 'w' matches only 'w', that has no grid of its own"),
        ("'re:('", "overrides: 're:(' is no regular expression"),
    ],
)
def test_a_pattern_that_changes_nothing_is_an_error(bench, two_layers, pattern, message):
    with pytest.raises(RecipeError) as caught:
        bench.convert(two_layers, "int8-only", overridden(f"{{tensor: {pattern}, range: [0, 1]}}"))
    assert caught.value.message.startswith(message)


def test_near_misses_are_named(bench):
    model = models.text(TWO.replace("r = Relu", "hidden = Relu").replace("(r, v)", "(hidden, v)"),
                        w=models.weight(6, 6), v=models.weight(6, 6, seed=1))  # fmt: skip
    with pytest.raises(RecipeError, match="did you mean 'hidden'"):
        bench.convert(model, "int8-only", overridden("{tensor: hiden, range: [0, 1]}"))


def test_a_grid_that_its_operator_fixes_cannot_be_overridden(bench):
    model = models.text("(float[8,6] x) => (float[8,6] y) { a = MatMul(x, w) y = Softmax(a) }", w=models.weight(6, 6))
    with pytest.raises(RecipeError, match="matches only 'y', whose grid its operator fixes"):
        bench.convert(model, "int8-only", overridden("{tensor: y, range: [0, 2]}"))


def test_the_result_is_the_same_whatever_the_batch_and_the_order(bench, two_layers):
    rows = np.random.default_rng(0).standard_t(3, (24, 6)).astype(np.float32)
    model = models.text(TWO.replace("[8,6]", "[N,6]"), w=models.weight(6, 6), v=models.weight(6, 6, seed=1))
    entry = overridden("{tensor: x, calibrator: percentile, percentile: 90}", "{tensor: r, calibrator: entropy}")
    arranged = [rows[i : i + 1] for i in range(24)], [rows[i : i + 8] for i in (8, 0, 16)], [rows[::-1]]
    found = [
        bench.convert(model, "int8-only", entry, feeds=[{"x": x} for x in each], calibrator="auto").result.encodings
        for each in arranged
    ]
    assert found[0]["encodings"] == found[1]["encodings"] == found[2]["encodings"]


def test_every_thread_count_gives_the_same(tmp_path, two_layers):
    onnx.save(two_layers, tmp_path / "float.onnx")
    found = [
        api.convert(
            tmp_path / "float.onnx",
            representative_dataset=tailed(two_layers),
            output=tmp_path / "made.onnx",
            options=Options(calibrator="auto", threads=threads),
        ).encodings["encodings"]
        for threads in (1, 2)
    ]
    assert found[0] == found[1]
