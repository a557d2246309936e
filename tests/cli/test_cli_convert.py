"""quant convert: what it writes and what it shows."""

from __future__ import annotations

import re
from dataclasses import fields

import numpy as np
import pytest

from quantcli import affine, api, modes
from quantcli.cli import convert as module
from quantcli.cli.iocard import iocard


def test_the_sample_gives_three_files(sample):
    stem = "digits.int8-only"
    assert (sample.code, sample.files) == (0, [f"{stem}.encodings.json", f"{stem}.onnx", f"{stem}.report.json"])


def test_the_sample_says_that_it_is_the_sample(sample):
    assert "converting the bundled sample" in sample.out


@pytest.mark.parametrize(
    "said",
    ["digits.int8-only.onnx", "% of the float model's", "10 integer", "0 float", "SQNR", "same top-1", "all passes:"],
)
def test_the_report_says(sample, said):
    assert said in sample.out


def test_a_piped_report_has_no_colours_and_no_boxes(sample):
    assert sample.out.isascii()
    assert "\x1b" not in sample.out


def test_piped_progress_is_one_plain_line_per_step(sample):
    lines = sample.err.splitlines()
    assert all(re.fullmatch(r"[a-z_0-9]+ +\d+\.\d\d s", line) for line in lines)
    assert {"calibrate", "verify"} <= {line.split()[0] for line in lines}


def test_quiet_says_nothing(convert):
    done = convert("--quiet")
    assert (done.code, done.out, done.err, len(done.files)) == (0, "", "", 3)


def test_quiet_still_says_errors(convert):
    assert convert("--quiet", "--mode", "nope").err.startswith("error: ")


def test_float_operators_are_grouped_by_reason(convert):
    done = convert("--mode", "full-integer", "--float", "op:Conv")
    row = next(line for line in done.out.splitlines() if "kept float as asked" in line)
    assert done.code == 0
    assert re.match(r" +4 +kept float as asked +stem.conv \(Conv\), .* and 1 more", row)


def test_patterns_are_echoed_with_their_matches(convert):
    assert "--float op:Conv: 4 nodes" in convert("--mode", "full-integer", "--float", "op:Conv", "--dry-run").out


def test_warnings_are_shown(convert):
    assert "accuracy means nothing" in convert("--random-data", "2").out


def test_dry_run_writes_nothing(convert):
    done = convert("--dry-run")
    assert (done.code, done.files) == (0, [])


@pytest.mark.parametrize(
    "said", ["nothing was written", "4  Conv", "calibration data is needed", "image  float32", "inputs   int8"]
)
def test_dry_run_says(convert, said):
    assert said in convert("--dry-run").out


def test_dry_run_needs_no_data(convert, tmp_path):
    (tmp_path / "m.onnx").write_bytes((modes.sample_folder() / "digits.onnx").read_bytes())
    assert convert("m.onnx", "--dry-run").code == 0


def test_output_and_save_temps_are_where_asked(convert):
    done = convert("-o", "out.onnx", "--save-temps", "steps")
    assert (done.code, done.files) == (0, ["out.encodings.json", "out.onnx", "out.report.json", "steps"])


def test_float_boundary_has_no_card(convert):
    assert "np.clip" not in convert("--mode", "full-integer").out


def test_the_code_of_the_card_does_what_the_model_expects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = api.convert(options=api.Options(samples=4, threads=1)).state
    image, probabilities = (state.quantized.boundary[n] for n in ("image", "probabilities"))
    x = np.linspace(-0.5, 1.5, 999, dtype=np.float32)
    names = {"np": np, "x": x}
    for line in iocard(state).lines:
        exec(line, names)  # noqa: S102 - the user copies it
    integers = affine.quantize(x, image)
    np.testing.assert_array_equal(names["q"], integers)
    assert names["q"].dtype == np.int8
    np.testing.assert_array_equal(names["y"], affine.dequantize(integers, probabilities))


def test_every_option_of_the_api_is_an_option_here():
    ours = {p.name for group in module.GROUPS.values() for p in group}
    assert {f.name for f in fields(api.Options)} <= ours
