"""Every mode at once: what recipes have in common runs once, and a mode that refuses stops no other."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from dataclasses import dataclass, field
from importlib import import_module

import models
import numpy as np
import onnx
import pytest

from quantcli import api, attempts, files, modes, plugins, together
from quantcli.errors import InternalError, OutputError, QualityError, QuantError, UnsupportedError, UsageError
from quantcli.pipeline import NamedPass

QUICK = ("passes.bias_correction=off", "passes.gptq=off")
STATIC = [m for m in modes.names() if modes.resolve(m).needs_data]


@dataclass
class Counted:
    """Counts how often each pass ran."""

    ran: Counter = field(default_factory=Counter)

    def before(self, name, state):  # noqa: ARG002 - the contract of instruments
        self.ran[name] += 1

    def tick(self, name, done, total):
        pass

    def after(self, name, state, seconds):
        pass


def perceptron(opset=21):
    return models.text(
        "(float[N,48] x) => (float[N,40] y) { h = MatMul(x, w)  r = Sigmoid(h)  y = MatMul(r, v) }",
        opset=opset, w=models.weight(48, 64), v=models.weight(64, 40),
    )  # fmt: skip


def all_of(folder, model=None, *settings, **options):
    made = model or perceptron()
    onnx.save(made, folder / "m.onnx")
    feeds = options.pop("feeds", models.samples(made, N=1))
    watch = options.pop("instruments", ())
    asked = api.Options(settings=(*QUICK, *settings), threads=1, **options)
    return api.convert_all(
        folder / "m.onnx", representative_dataset=feeds, output=folder, options=asked, instruments=watch
    )


def refused(outcomes):
    return {m: r for m, r in outcomes.items() if isinstance(r, QuantError)}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return all_of(tmp_path_factory.mktemp("all"))


def test_every_mode_has_an_outcome(outcomes):
    assert list(outcomes) == modes.names()


def test_every_result_is_written_with_its_sidecars(outcomes):
    done = [r.output for r in outcomes.values() if isinstance(r, api.Result)]
    suffixes = (".onnx", ".encodings.json", ".report.json")
    there = {p.name for p in done[0].parent.iterdir()} - {"m.onnx"}
    assert there == {p.name.removesuffix(".onnx") + s for p in done for s in suffixes}


def test_what_is_common_runs_once(tmp_path):
    counted = Counted()
    outcomes = all_of(tmp_path, instruments=[counted])
    assert {counted.ran[p] for p in ("simplify", "fold_batch_norm", "canonicalize", "calibrate")} == {1}
    assert counted.ran["verify"] == len(outcomes) - len(refused(outcomes))


def test_a_model_that_equalization_changes_is_calibrated_once_as_it_was_and_once_as_it_is(tmp_path):
    counted = Counted()
    api.convert_all(output=tmp_path, options=api.Options(settings=QUICK, samples=4, threads=1), instruments=[counted])
    assert counted.ran["calibrate"] == 2
    assert counted.ran["equalize"] == 1


def test_recipes_that_need_other_opsets_are_prepared_apart(tmp_path):
    counted = Counted()
    all_of(tmp_path, perceptron(opset=11), instruments=[counted])
    steps = [s for m in modes.names() for s in modes.resolve(m).passes if s.name == "convert_opset"]
    wanted = {dict(s.options)["minimum"] for s in steps}
    assert counted.ran["simplify"] == len(wanted)


@pytest.mark.parametrize("mode", modes.names())
def test_a_mode_is_the_same_as_by_itself(mode, tmp_path, outcomes):
    if isinstance(outcomes[mode], QuantError):
        pytest.skip("refused")
    onnx.save(perceptron(), tmp_path / "m.onnx")
    asked = api.Options(
        settings=tuple(s for s in QUICK if f"{s.split('.')[1].split('=')[0]}" in _passes(mode)), threads=1
    )
    alone = api.convert(
        tmp_path / "m.onnx", mode=mode, representative_dataset=models.samples(perceptron(), N=1),
        output=tmp_path / "q.onnx", options=asked,
    )  # fmt: skip
    assert alone.output.read_bytes() == outcomes[mode].output.read_bytes()


def _passes(mode):
    return {s.name for s in modes.resolve(mode).passes}


def test_running_twice_gives_the_same_bytes(tmp_path, outcomes):
    again = all_of(tmp_path)
    for mode, result in outcomes.items():
        if isinstance(result, api.Result):
            assert again[mode].output.read_bytes() == result.output.read_bytes()


def test_a_mode_that_refuses_stops_no_other(tmp_path):
    model = models.text("(float[1,48] x) => (float[1,40] y) { h = MatMul(x, w)  y = Det2(h) }".replace("Det2", "Erf"),
                        w=models.weight(48, 40))  # fmt: skip
    outcomes = all_of(tmp_path, model, keep_float=("op:Erf",))
    assert isinstance(outcomes["int8-only"], UnsupportedError)
    assert outcomes["full-integer"].output.exists()


def test_without_data_only_those_that_need_none(tmp_path):
    onnx.save(perceptron(), tmp_path / "m.onnx")
    outcomes = api.convert_all(tmp_path / "m.onnx", output=tmp_path)
    assert {m for m, e in refused(outcomes).items() if "needs calibration data" in e.message} == set(STATIC)
    assert outcomes["float16"].output.exists()


def test_where_all_refuse_for_one_reason_it_is_raised():
    error = UnsupportedError("x")
    with pytest.raises(UnsupportedError, match=r"^x$"):
        attempts.check_any({"a": error, "b": UnsupportedError("x")})


def test_where_all_refuse_every_reason_is_raised():
    with pytest.raises(UnsupportedError) as caught:
        attempts.check_any({"a": UnsupportedError("x"), "b": UsageError("y")})
    assert caught.value.reasons == ("a: x", "b: y")


def test_a_bug_in_one_mode_is_told_and_stops_no_other(tmp_path, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("quantcli.passes.check_operators.CheckOperators.__call__", fail)
    outcomes = all_of(tmp_path)
    assert isinstance(outcomes["none"], InternalError)
    assert "ZeroDivisionError" in outcomes["none"].message
    assert outcomes["full-integer"].output.exists()


def test_where_every_mode_fails_by_a_bug_it_is_a_bug():
    with pytest.raises(InternalError, match="every mode fails: a: x; b: y"):
        attempts.check_any({"a": InternalError("x"), "b": InternalError("y")})


def test_a_bad_model_is_no_refusal(tmp_path):
    with pytest.raises(QuantError, match="does not exist"):
        api.convert_all(tmp_path / "no.onnx", output=tmp_path)


def test_a_pattern_that_matches_nothing_is_wrong_in_every_mode(tmp_path):
    with pytest.raises(UsageError, match="matches nothing"):
        all_of(tmp_path, keep_float=("op:Sigmoidd",))


def test_what_is_not_good_enough_is_not_written(tmp_path):
    outcomes = all_of(tmp_path, min_sqnr=60)
    assert isinstance(outcomes["int8-only"], QualityError)
    assert outcomes["none"].output.exists()
    assert not (tmp_path / "m.int8-only.onnx").exists()


def test_files_are_written_all_together_or_not_at_all(tmp_path, monkeypatch):
    written = []

    def fail(contents, obsolete):
        written.append(contents)
        raise OutputError("full")

    monkeypatch.setattr(files, "write_all", fail)
    with pytest.raises(OutputError):
        all_of(tmp_path)
    assert len(written) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_dry_run_plans_every_mode(tmp_path):
    outcomes = all_of(tmp_path, dry_run=True)
    assert outcomes["int8-only"].state.plan.units
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


# ---- options ---------------------------------------------------------------------------------------------------------


def test_an_option_applies_where_it_fits(tmp_path):
    outcomes = all_of(tmp_path, input_type="int8", output_type="int8")
    assert set(outcomes["full-integer"].report["io"]) == {"x", "y"}
    assert "io" not in outcomes["float16"].report or not outcomes["float16"].report["io"]
    assert "--input-type int8 means nothing in this mode and was left out" in outcomes["float16"].report["notes"]


def test_settings_that_depend_on_each_other_apply_together(tmp_path):
    blocks = ("scheme.weights.granularity=per-block", "scheme.weights.block_size=16")
    outcomes = all_of(tmp_path, None, *blocks)
    assert isinstance(outcomes["full-integer"], UnsupportedError)
    assert outcomes["weight-only-int8"].state.recipe.scheme.weights.block_size == 16


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"settings": ("scheme.wieghts.dtype=int8",)}, "no mode takes --set scheme.wieghts.dtype=int8"),
        ({"calibrator": "mimax"}, "no mode takes --calibrator mimax"),
        ({"keep": True, "min_sqnr": 3}, "--keep is not possible with --mode all"),
        ({"recipe": "x.yaml"}, "--recipe is one recipe"),
        ({"samples": 0}, "samples is 0"),
    ],
)
def test_an_option_that_fits_no_mode_is_a_usage_error(tmp_path, options, said):
    with pytest.raises(UsageError, match=said):
        api.convert_all(output=tmp_path, options=api.Options(**options))


def test_the_output_is_a_folder(tmp_path):
    with pytest.raises(UsageError, match="is no folder"):
        api.convert_all(output=tmp_path / "m.onnx")


# ---- measuring -------------------------------------------------------------------------------------------------------


def test_every_result_is_measured_beside_the_float_model(outcomes):
    found = api.latencies(outcomes)
    assert set(found) == {"", *(m for m, r in outcomes.items() if isinstance(r, api.Result))}
    assert all(0 < x.minimum <= x.median for x in found.values())


def test_nothing_is_measured_where_nothing_was_made():
    assert api.latencies({"a": UnsupportedError("x")}) == {}


def test_labels_score_every_mode(tmp_path):
    x = np.random.default_rng(0).normal(size=(12, 1, 48)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x, labels=np.arange(12))
    (tmp_path / "data.yaml").write_text("inputs: {x: {npz: a.npz}}\nlabels: {npz: a.npz}")
    outcomes = all_of(tmp_path, feeds=tmp_path / "data.yaml")
    scored = {r.state.report.accuracy.float_top1 for r in outcomes.values() if isinstance(r, api.Result)}
    assert len(scored) == 1


# ---- sharing is right ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in together.SHARED if n not in {"convert_opset", *together.READ}])
def test_a_shared_pass_reads_nothing_of_the_recipe(name):
    module = import_module(plugins.PASSES[name].partition(":")[0])
    assert "recipe" not in inspect.getsource(module).replace("the recipe", "")


@pytest.mark.parametrize("name", together.READ)
def test_a_shared_pass_that_reads_the_recipe_reads_what_is_listed(name):
    source = inspect.getsource(import_module(plugins.PASSES[name].partition(":")[0]))
    assert set(re.findall(r"recipe(\.?\w*)", source)) == {f".{field}" for field in together.READ[name]}


def test_converting_the_opset_reads_the_format_and_the_bits_alone():
    source = inspect.getsource(import_module(plugins.PASSES["convert_opset"].partition(":")[0]))
    read = [source.count(f"state.recipe.{name}") for name in ("", "format", "four_bits")]
    assert read == [2, 1, 1]


class ByBits:
    """Observes otherwise for 16 bits than for 8."""

    def observer(self, spec):
        return spec.dtype.bits


class Incomparable:
    def observer(self, spec):  # noqa: ARG002 - the contract of calibrators
        return object()


@pytest.mark.parametrize("calibrator", [ByBits(), Incomparable()])
def test_observers_that_see_otherwise_are_not_shared(calibrator, tmp_path):
    outcomes = all_of(tmp_path, dry_run=True)
    step = NamedPass("calibrate", Holder(calibrator))
    narrow, wide = (together.Reached(outcomes[m].state, todo=(step,)) for m in ("full-integer", "16x8"))
    assert not together._observe_alike([narrow], wide)
    assert together._observe_alike([narrow], narrow)


@dataclass
class Holder:
    calibrator: object
