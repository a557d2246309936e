"""Presets are changes to a mode's passes: for every static mode and setting, refused where they mean nothing."""

from __future__ import annotations

import subprocess
import sys

import models
import onnx
import pytest

from quantcli import api, modes, presets, recipe_reader
from quantcli.errors import RecipeError, UsageError
from quantcli.options import Options, completed, resolved

STATIC = ("full-integer", "int8-only", "16x8")


def enabled(recipe):
    return {s.name for s in recipe.passes if s.enabled}


@pytest.mark.parametrize("mode", STATIC)
@pytest.mark.parametrize("name", modes.preset_names())
def test_every_static_mode_takes_every_preset(mode, name):
    recipe = resolved(mode, Options(preset=name))
    for step, change in modes.preset(name).passes.items():
        assert recipe.enabled(step) == (change is not False)


@pytest.mark.parametrize("mode", [m for m in modes.names() if m not in STATIC])
@pytest.mark.parametrize("name", modes.preset_names())
def test_modes_that_calibrate_nothing_refuse_it_by_the_missing_pass(mode, name):
    with pytest.raises(UsageError, match=f"--preset {name} means nothing in mode '{mode}': it has no pass"):
        resolved(mode, Options(preset=name))


def test_fast_rounds_to_nearest_and_accurate_does_everything():
    fast, usual, best = (enabled(resolved("full-integer", Options(preset=p))) for p in ("fast", None, "accurate"))
    assert {"gptq", "adaround", "seq_mse"}.isdisjoint(fast)
    assert "gptq" in usual
    assert {"adaround", "seq_mse", "bias_correction"} <= best


def test_settings_and_calibrator_come_after_the_preset():
    asked = Options(
        preset="accurate", settings=("passes.seq_mse=off", "passes.adaround.samples=7"), calibrator="minmax"
    )
    recipe = resolved("full-integer", asked)
    options = {s.name: s.options for s in recipe.passes}
    assert not recipe.enabled("seq_mse")
    assert options["adaround"]["samples"] == 7
    assert options["calibrate"]["calibrator"] == "minmax"


def test_a_preset_that_works_without_samples_asks_for_none():
    assert completed(Options(preset="data-free")).data_free
    assert not completed(Options(preset="fast")).data_free


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(UsageError, match=r"unknown preset 'acurate'.*accurate"):
        resolved("full-integer", Options(preset="acurate"))


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"passses": {}}, "unknown key 'passses'"),
        ({"passes": {"gptq": 3}}, "expected on, off or options"),
        ({"passes": ["gptq"]}, "expected on, off or options"),
        ({"data_free": "yes"}, "expected true or false"),
    ],
)
def test_a_wrong_preset_is_refused(mapping, said):
    with pytest.raises(RecipeError, match=said):
        presets.from_mapping(mapping, where="p.yaml")


def test_options_of_a_mode_that_a_preset_does_not_name_stay():
    mapping = {"name": "m", "passes": [{"gptq": {"samples": 3, "rows": 4}}, {"emit": {}}]}
    changed = presets.with_preset(mapping, presets.Preset("p", passes={"gptq": {"samples": 9}}))
    assert changed["passes"] == [{"gptq": {"samples": 9, "rows": 4}}, {"emit": {}}]


def test_show_prints_the_recipe_with_the_preset():
    arguments = [sys.executable, "-m", "quantcli", "modes", "show", "full-integer", "--preset", "fast"]
    shown = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout  # noqa: S603 - ourselves
    assert recipe_reader.parse(shown, where="shown") == modes.resolve("full-integer", preset_name="fast")
    assert "gptq: 'off'" in shown


def model():
    return models.text(
        "(float[1,4,6,6] x) => (float[1,5,6,6] y) { a = Conv<pads=[1,1,1,1]>(x, w, b) r = Relu(a) y = Conv(r, v) }",
        w=models.weight(6, 4, 3, 3), b=models.weight(6), v=models.weight(5, 6, 1, 1),
    )  # fmt: skip


@pytest.mark.parametrize("mode", STATIC)
def test_accurate_converts_with_clipped_weights_and_learned_rounding(bench, mode):
    made = bench.convert(model(), mode, nearest=False, preset="accurate").result
    said = " ".join(made.report["notes"])
    assert "weights clipped by output error" in said
    assert said.index("gptq rounding on") < said.index("adaround rounding on")


@pytest.mark.parametrize(("dtype", "gain"), [("int8", 0.5), ("int4", 5)])
def test_accurate_is_closer_to_float_than_fast_on_the_bundled_sample(tmp_path, dtype, gain):
    settings = (f"scheme.weights.dtype={dtype}",)
    found = {}
    for preset in ("fast", "accurate"):
        made = api.convert(output=tmp_path / "o.onnx", options=Options(settings=settings, preset=preset))
        found[preset] = made.report["verification"]["outputs"]["probabilities"]["sqnr_db"]
    assert found["accurate"] > found["fast"] + gain


def test_data_free_converts_without_samples(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(model(), path)
    made = api.convert(path, mode="int8-only", output=tmp_path / "o.onnx", options=Options(preset="data-free"))
    assert any("calibrated without data" in w for w in made.report["warnings"])
