"""Statistics once, conversions many: scales from saved statistics or the cache are those that the samples give."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import models
import numpy as np
import onnx
import pytest
from conversion import NEAREST

from quantcli import api, cache, plugins, saved_statistics
from quantcli.errors import QuantError, StatisticsError, UsageError
from quantcli.observations import Observations

NETWORK = """(float[N, 3, 8, 8] x) => (float[N, 4] y) {
  a = Conv<pads = [1, 1, 1, 1]>(x, w)  b = Relu(a)  c = Conv(b, v)  d = Relu(c)  f = Flatten(d)  y = MatMul(f, g)
}"""
BRANCHES = """(float[N, 3] x, bool take) => (float[N, 3] y) {
  a = MatMul(x, w)
  y = If (take) <
    then_branch = one () => (float[N, 3] t) { p = MatMul(a, u) t = Relu(p) },
    else_branch = two () => (float[N, 3] e) { q = MatMul(a, v) e = Tanh(q) }
  >
}"""
REFINED = tuple(s for s in NEAREST if not s.startswith("passes.equalize"))


def network():
    spread = models.weight(6, 3, 3, 3) * np.geomspace(0.05, 4, 6, dtype=np.float32).reshape(6, 1, 1, 1)
    return models.text(NETWORK, w=spread, v=models.weight(4, 6, 3, 3, seed=1), g=models.weight(144, 4, seed=2))


def branches():
    return models.text(BRANCHES, **{n: models.weight(3, 3, seed=i) for i, n in enumerate("wuv")})


def feeds(count=12, seed=0):
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def branch_feeds(*, both=True):
    rng = np.random.default_rng(0)
    return [
        {"x": rng.normal(size=(2, 3)).astype(np.float32), "take": np.array(i % 2 == 0 or not both)} for i in range(8)
    ]


class Place:
    """A folder with a model and its samples."""

    def __init__(self, folder: Path, model=None, samples=None):
        self.folder, self.model, self.samples = folder, folder / "float.onnx", feeds() if samples is None else samples
        onnx.save(network() if model is None else model, self.model)

    def calibrate(self, *settings, name="stats.json", modes=(), samples=None, **options):
        asked = api.Options(settings=settings, threads=1, **options)
        data = self.samples if samples is None else samples
        return api.calibrate(
            self.model, modes=modes, representative_dataset=data, output=self.folder / name, options=asked
        )

    def convert(self, *settings, name="out.onnx", mode="full-integer", data=True, model=None, **options):
        asked = api.Options(settings=settings, threads=1, **options)
        source = {True: self.samples, False: None}.get(data) if isinstance(data, bool) else data
        target = self.folder / name
        result = api.convert(
            model or self.model, mode=mode, representative_dataset=source, output=target, options=asked
        )
        return replace(result, output=target)

    @property
    def stats(self):
        return self.folder / "stats.json"


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def files_of(result):
    stem = result.output.with_suffix("")
    return [Path(f"{stem}{end}").read_bytes() for end in (".onnx", ".encodings.json", ".report.json")]


def scales(result):
    return result.encodings["encodings"]


@pytest.fixture
def blind(monkeypatch):
    """After it is called, nothing may be looked at."""

    def shut():
        def seen(_self, _place, missing, _look):
            raise AssertionError(f"looked at {missing}")

        monkeypatch.setattr(Observations, "_seen", seen)

    return shut


# ---- statistics alone ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["full-integer", "int8-only", "16x8"])
def test_scales_are_those_of_the_samples_bit_for_bit(place, mode, blind):
    place.calibrate(*REFINED)
    expected = place.convert(*REFINED, mode=mode)
    blind()
    found = place.convert(*REFINED, mode=mode, data=False, stats=place.stats, name="other.onnx")
    assert scales(found) == scales(expected)
    assert found.report["ranges"] == expected.report["ranges"]
    assert found.report["inputs"] == expected.report["inputs"]
    assert found.state.report.equalized == expected.state.report.equalized


@pytest.mark.parametrize("name", list(plugins.CALIBRATORS))
def test_one_file_serves_every_method(place, name):
    place.calibrate()
    expected = place.convert(*REFINED, calibrator=name)
    assert scales(place.convert(*REFINED, calibrator=name, data=False, stats=place.stats)) == scales(expected)


def test_ranges_that_only_samples_can_try_are_not_tried_without_them_and_that_is_said(place):
    place.calibrate(modes=["full-integer"], calibrator="minmax")
    every = "passes.calibrate.heedless=true"
    result = place.convert(every, calibrator="auto", data=False, stats=place.stats)
    assert any("no run of the model tried them" in said for said in result.report["notes"])
    expected = files_of(place.convert(every, calibrator="auto"))
    assert files_of(place.convert(every, calibrator="auto", stats=place.stats)) == expected


def test_what_only_samples_can_do_is_left_out_and_said(place):
    place.calibrate()
    result = place.convert(data=False, stats=place.stats)
    notes = " | ".join(result.report["notes"])
    assert "left out, because only samples tell what they need: " in notes
    assert "gptq" in notes
    assert "bias_correction" in notes
    assert "ranges from stats.json: 12 samples of arrays" in notes
    assert "verified on 3 random samples" in notes
    assert not {"gptq", "bias_correction"} & set(result.state.report.timings)


def test_the_result_says_what_it_was_calibrated_on(place):
    made = place.calibrate()
    result = place.convert(data=False, stats=place.stats)
    assert result.provenance["data_sha256"] == made.statistics.data_sha256
    assert result.provenance["data"] == "arrays, known from stats.json"
    assert result.report["random_data"] is result.provenance["random_data"] is False


def test_statistics_of_random_samples_stay_stamped(place):
    asked = api.Options(random_data=4, threads=1)
    api.calibrate(place.model, output=place.stats, options=asked)
    result = place.convert(data=False, stats=place.stats)
    assert result.provenance["random_data"] is True
    assert any("calibrated on random data (4 samples)" in w for w in result.report["warnings"])


def test_all_modes_take_ranges_from_one_file(place):
    place.calibrate()
    made = api.convert_all(place.model, output=place.folder, options=api.Options(stats=place.stats, threads=1))
    assert {mode for mode, r in made.items() if isinstance(r, StatisticsError)} == set()
    assert {"full-integer", "int8-only", "16x8"} <= {mode for mode, r in made.items() if not isinstance(r, QuantError)}
    assert scales(made["int8-only"]) == scales(place.convert(mode="int8-only", data=False, stats=place.stats))


# ---- statistics and samples ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["full-integer", "int8-only"])
def test_with_the_samples_beside_them_the_result_is_that_of_the_samples(place, mode, blind):
    place.calibrate()
    expected = files_of(place.convert(mode=mode))
    blind()
    assert files_of(place.convert(mode=mode, stats=place.stats)) == expected


def test_refinements_run_on_the_samples_beside_statistics(place):
    place.calibrate()
    result = place.convert(stats=place.stats)
    assert {"gptq", "bias_correction"} <= set(result.state.report.timings)


# ---- bodies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("settings", [(), REFINED], ids=["refined", "nearest"])
def test_bodies_of_control_flow_are_calibrated_from_statistics(tmp_path, both, settings, blind):
    place = Place(tmp_path, branches(), branch_feeds(both=both))
    place.calibrate(*settings)
    expected = place.convert(*settings)
    blind()
    alone = place.convert(*settings, data=False, stats=place.stats, name="alone.onnx")
    beside = place.convert(*settings, stats=place.stats, name="beside.onnx")
    assert files_of(beside)[0] == files_of(expected)[0]
    assert {n: e.fate for n, e in alone.state.report.ledger.items()} == {
        n: e.fate for n, e in expected.state.report.ledger.items()
    }
    if settings:
        assert scales(alone) == scales(expected)
        assert files_of(alone)[0] != b""


# ---- stale -----------------------------------------------------------------------------------------------------------


def refused(place, said, **options):
    with pytest.raises(StatisticsError, match=said) as caught:
        place.convert(name="refused.onnx", stats=place.stats, **options)
    assert caught.value.exit_code == 3
    assert "quant calibrate" in caught.value.hint
    assert not (place.folder / "refused.onnx").exists()


def test_another_model_is_refused(place):
    place.calibrate()
    changed = onnx.load(place.model)
    changed.graph.initializer[0].CopyFrom(models.initializer("w", models.weight(6, 3, 3, 3, seed=9)))
    onnx.save(changed, place.folder / "changed.onnx")
    refused(
        place,
        r"stats\.json: statistics of another model, sha256 .* of .*changed\.onnx",
        model=place.folder / "changed.onnx",
    )


def test_the_same_model_elsewhere_is_taken(place):
    place.calibrate()
    onnx.save(onnx.load(place.model), place.folder / "moved.onnx", save_as_external_data=True, size_threshold=0)
    moved = place.convert(data=False, stats=place.stats, model=place.folder / "moved.onnx")
    assert scales(moved) == scales(place.convert(data=False, stats=place.stats))


def test_other_samples_are_refused(place):
    place.calibrate()
    refused(place, r"statistics of other data \(12 samples of arrays\)", data=feeds(seed=1))


def test_fewer_samples_are_refused(place):
    place.calibrate()
    refused(place, "statistics of other data", data=feeds(11))


def test_another_preparation_is_refused(place):
    place.calibrate(modes=["full-integer"])
    refused(place, "as the model is prepared here; it was made for full-integer by quant", mode="16x8", data=False)


def test_a_refusal_of_one_mode_takes_no_other_along(place):
    place.calibrate(modes=["full-integer"])
    made = api.convert_all(place.model, output=place.folder, options=api.Options(stats=place.stats, threads=1))
    assert isinstance(made["16x8"], StatisticsError)
    assert not isinstance(made["full-integer"], QuantError)


def test_a_missing_tensor_is_refused(place):
    place.calibrate()
    document = json.loads(place.stats.read_text())
    for group in document["observations"]:
        group["tensors"].pop("x", None)
    place.stats.write_text(json.dumps(document))
    refused(place, "of tensor 'x'", data=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"mode": "float16"}, "--stats means nothing in mode 'float16'"),
     ({"mode": "full-integer", "random_data": 3}, "--stats and --random-data exclude each other")],
)  # fmt: skip
def test_a_call_that_makes_no_sense_is_refused(place, options, said):
    place.calibrate()
    with pytest.raises(UsageError, match=said):
        place.convert(data=False, stats=place.stats, **options)


def test_without_samples_and_statistics_the_mode_refuses(place):
    with pytest.raises(UsageError, match="needs calibration data"):
        place.convert(data=False)


def test_the_file_of_statistics_is_no_place_for_the_result(place):
    place.calibrate(name="out.onnx")
    with pytest.raises(UsageError, match="the output is the input itself"):
        place.convert(data=False, stats=place.folder / "out.onnx")


# ---- quant calibrate -------------------------------------------------------------------------------------------------


def test_the_order_of_samples_does_not_matter(place):
    place.calibrate()
    place.calibrate(name="back.json", samples=place.samples[::-1])
    assert (place.folder / "back.json").read_bytes() == place.stats.read_bytes()


def test_the_same_call_writes_the_same_bytes(place):
    place.calibrate()
    place.calibrate(name="again.json")
    assert (place.folder / "again.json").read_bytes() == place.stats.read_bytes()


def test_every_mode_that_calibrates_is_served(place):
    made = place.calibrate()
    assert set(made.states) == {"full-integer", "int8-only", "16x8"}
    assert saved_statistics.read(place.stats).modes == made.statistics.modes == ("16x8", "full-integer", "int8-only")


def test_a_mode_that_refuses_the_model_is_told(tmp_path):
    model = models.text("(float[N, 3] x) => (float[N, 3] y) { a = MatMul(x, w)  y = Erf(a) }", w=models.weight(3, 3))
    rng = np.random.default_rng(0)
    place = Place(tmp_path, model, [{"x": rng.normal(size=(1, 3)).astype(np.float32)} for _ in range(4)])
    made = place.calibrate(modes=["full-integer", "16x8"])
    assert set(made.states) | set(made.refused) == {"full-integer", "16x8"}
    if made.refused:
        assert "16x8" in made.refused


@pytest.mark.parametrize(
    ("modes", "said"), [(["float16"], "mode 'float16' calibrates nothing"), (["int8"], "unknown mode 'int8'")]
)
def test_a_wrong_mode_is_refused(place, modes, said):
    with pytest.raises(QuantError, match=said):
        place.calibrate(modes=modes)


@pytest.mark.parametrize("options", [{"dry_run": True}, {"stats": Path("stats.json")}], ids=str)
def test_an_option_of_conversions_alone_is_refused(place, options):
    with pytest.raises(UsageError, match="means nothing to a calibration"):
        place.calibrate(**options)


def test_a_recipe_file_is_calibrated_for(place):
    recipe = place.folder / "mine.yaml"
    recipe.write_text(
        "extends: full-integer\nname: mine\nsummary: mine\npasses: [make_plan, calibrate, assign, emit, verify]\n"
    )
    made = place.calibrate(recipe=recipe)
    assert list(made.states) == ["mine"]
    assert scales(place.convert(recipe=recipe, data=False, stats=place.stats)) == scales(place.convert(recipe=recipe))


def test_nothing_is_written_where_nothing_can_be(place):
    with pytest.raises(QuantError):
        place.calibrate(name="no/such/folder/stats.json")
    assert not place.stats.exists()


def test_the_tool_knows_the_file_as_readable_json(place):
    place.calibrate(modes=["full-integer"])
    document = json.loads(place.stats.read_text())
    ranges = [o["tensors"]["x"] for o in document["observations"] if "x" in o["tensors"] and o["kind"] != "fed"]
    low, high = (f(x["x"].astype(np.float64)) for f, x in ((np.min, place.samples[0]), (np.max, place.samples[0])))
    assert all(r["min"] <= low and r["max"] >= high and r["count"] == 12 * 192 for r in ranges if "count" in r)
    assert document["samples"] == 12


# ---- the cache -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["full-integer", "16x8"])
def test_bytes_are_the_same_cold_warm_and_without_a_cache(place, cache_folder, mode, blind):
    without = files_of(place.convert(mode=mode, cache=False))
    assert not cache_folder.exists()
    cold = files_of(place.convert(mode=mode))
    assert cache.contents().entries > 0
    blind()
    assert without == cold == files_of(place.convert(mode=mode))


def test_the_second_mode_begins_with_what_the_first_saw(place, cache_folder, blind):
    place.convert(mode="full-integer")
    blind()
    place.convert(mode="int8-only")


def test_another_setting_begins_with_what_the_first_saw(place, cache_folder, blind):
    place.convert(calibrator="percentile")
    blind()
    place.convert(calibrator="minmax")


def test_a_poorer_look_does_not_serve_a_richer_one(place, cache_folder):
    place.convert(calibrator="minmax")
    expected = scales(place.convert(calibrator="percentile", cache=False))
    assert scales(place.convert(calibrator="percentile")) == expected


def test_statistics_are_made_from_the_cache(place, cache_folder, blind):
    place.convert(calibrator="entropy")
    place.calibrate(modes=["full-integer"], name="warm.json")
    place.calibrate(modes=["full-integer"], name="cold.json", cache=False)
    assert (place.folder / "warm.json").read_bytes() == (place.folder / "cold.json").read_bytes()


def test_bodies_begin_with_what_was_seen(tmp_path, cache_folder, blind):
    place = Place(tmp_path, branches(), branch_feeds())
    expected = files_of(place.convert(cache=False))
    assert files_of(place.convert()) == expected
    blind()
    assert files_of(place.convert()) == expected


@pytest.mark.parametrize(
    "damage", [lambda p: p.write_bytes(b"noise"), lambda p: p.unlink(), lambda p: (p.unlink(), p.mkdir())]
)
def test_a_damaged_cache_changes_nothing(place, cache_folder, damage):
    expected = files_of(place.convert())
    for path in cache_folder.glob("*.json"):
        damage(path)
    assert files_of(place.convert()) == expected


def test_a_cache_that_cannot_be_is_told_and_no_failure(place, monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("QUANT_CACHE_DIR", str(tmp_path / "file"))
    result = place.convert()
    assert any(note.startswith("nothing is cached: ") for note in result.report["notes"])


def test_a_dry_run_opens_no_cache(place, cache_folder):
    place.convert(dry_run=True)
    assert not cache_folder.exists()


def test_a_cache_from_elsewhere_is_of_no_use_to_another_model(place, cache_folder):
    place.convert()
    other = network()
    other.graph.initializer[0].CopyFrom(models.initializer("w", models.weight(6, 3, 3, 3, seed=9)))
    (place.folder / "b").mkdir()
    second = Place(place.folder / "b", other)
    assert files_of(second.convert()) == files_of(second.convert(cache=False))
    shutil.rmtree(cache_folder)
