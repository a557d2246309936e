"""``quant calibrate`` and ``quant cache``: what they write and say."""

from __future__ import annotations

import json

import pytest

from quantcli import modes

SAMPLE = modes.sample_folder()
MODEL, DATA = (str(SAMPLE / name) for name in ("digits.onnx", "dataset.yaml"))
FEW = ("--samples", "4", "--threads", "1")
PLAIN = ("--set", "passes.gptq=off", "--set", "passes.bias_correction=off")


@pytest.fixture
def calibrate(quant):
    return lambda *arguments: quant("calibrate", *FEW, "--mode", "int8-only", *arguments)


def test_the_bundled_sample_is_calibrated(calibrate):
    done = calibrate()
    assert (done.code, done.files) == (0, ["digits.stats.json"])
    assert "digits.stats.json" in done.out
    assert "4 samples of dataset.yaml" in done.out
    document = json.loads((done.folder / "digits.stats.json").read_text())
    assert document["model_sha256"] in done.out
    assert document["modes"] == ["int8-only"]


def test_json_is_one_document(calibrate):
    done = calibrate("--json", "-o", "s.json")
    saved = json.loads((done.folder / "s.json").read_text())
    assert done.document["written"] == {"statistics": "s.json"}
    assert done.document["data_sha256"] == saved["data_sha256"]
    assert done.document["tensors"]["int8-only"] > 5
    assert done.document["refused"] == {}


def test_quiet_says_nothing(calibrate):
    done = calibrate("--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_convert_takes_the_ranges(quant, calibrate):
    calibrate("-o", "s.json", "--quiet")
    done = quant("convert", MODEL, "--stats", "s.json", "--threads", "1", "--json", "-o", "a.onnx")
    assert done.code == 0
    quant("convert", MODEL, "--representative-dataset", DATA, *FEW, *PLAIN, "--quiet", "-o", "b.onnx")
    ranges = [json.loads((done.folder / f"{n}.report.json").read_text())["ranges"] for n in "ab"]
    assert ranges[0] == ranges[1]


def test_stale_statistics_end_with_3(quant, calibrate):
    calibrate("-o", "s.json", "--quiet")
    done = quant("convert", MODEL, "--stats", "s.json", "--representative-dataset", DATA, "--threads", "1")
    assert done.code == 3
    assert done.err.startswith("error: s.json: statistics of other data (4 samples of dataset.yaml)")
    assert "\nhint: make them anew with quant calibrate" in done.err
    assert done.files == ["s.json"]


def test_statistics_are_of_one_model(quant, calibrate):
    folder = calibrate("-o", "s.json", "--quiet").folder
    (folder / "both.yaml").write_text(f"signatures:\n  a: {{model: {MODEL}, dataset: {DATA}}}\n")
    for command in (("convert", "--stats", "s.json"), ("calibrate",)):
        done = quant(*command, "both.yaml")
        assert done.code == 2
        assert "of one" in done.err or "statistics are of one" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [(("--mode", "float16"), 2, "mode 'float16' calibrates nothing"), (("--mode", "int9"), 2, "unknown mode 'int9'"),
     (("--recipe", "x.yaml", "--mode", "int8-only"), 2, "--mode and --recipe exclude each other"),
     (("--set", "passes.gptq.nonsense=1",), 2, "nonsense")],
)  # fmt: skip
def test_a_wrong_call_is_refused(quant, arguments, code, said):
    done = quant("calibrate", MODEL, "--representative-dataset", DATA, *arguments)
    assert done.code == code
    assert said in done.err
    assert done.files == []


def test_without_samples_nothing_is_calibrated(quant):
    done = quant("calibrate", MODEL)
    assert done.code == 2
    assert "needs calibration data" in done.err


def test_the_cache_is_shown_and_emptied(quant, convert, cache_folder):
    assert quant("cache").code == 0
    assert not cache_folder.exists()  # to look is not to make
    convert("--quiet")
    shown = quant("cache").out
    assert str(cache_folder) in shown
    count = len(list(cache_folder.glob("*.json")))
    assert count > 0
    assert f"removed {count} entries" in quant("cache", "clear").out
    assert list(cache_folder.iterdir()) == []


def test_no_cache_leaves_none(convert, cache_folder):
    assert convert("--quiet", "--no-cache").code == 0
    assert not cache_folder.exists()


def test_a_cache_that_is_off_is_told(quant, monkeypatch):
    monkeypatch.setenv("QUANT_CACHE_DIR", "")
    assert "switched off" in quant("cache").out
    assert "removed 0 entries" in quant("cache", "clear").out
