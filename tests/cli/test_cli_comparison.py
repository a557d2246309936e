"""quant convert --mode all: every mode, one table."""

from __future__ import annotations

import json
import re

import pytest

from quantcli import modes
from quantcli.cli import comparison
from quantcli.errors import UnsupportedError
from quantcli.racing import Latency

SETTINGS = ("--samples", "4", "--threads", "1", "--set", "passes.bias_correction=off", "--set", "passes.gptq=off")


@pytest.fixture
def convert_all(quant):
    return lambda *arguments: quant("convert", "--mode", "all", *SETTINGS, *arguments)


def rows(done):
    lines = [line for line in done.out.splitlines() if line.startswith("  ") and line.split()[0] in modes.names()]
    return {line.split()[0]: line for line in reversed(lines)}  # the first line of a mode is that of the table


def test_every_mode_has_a_row(convert_all):
    done = convert_all()
    assert done.code == 0
    assert sorted(rows(done)) == modes.names()


def test_what_is_made_is_written_and_listed(convert_all):
    done = convert_all()
    made = {f for f in done.files if f.endswith(".onnx")}
    assert made == {f"digits.{m}.onnx" for m, row in rows(done).items() if "refused: " not in row}
    assert all(f"  {name}" in done.out for name in made)


def test_a_refusal_is_in_the_table_and_explained_below(convert_all):
    done = convert_all("--float", "op:Softmax")
    assert "refused: 1 of " in rows(done)["int8-only"]
    below = done.out[done.out.index("int8-only was not made") :]
    assert "1 Softmax: kept float as asked" in below
    assert "digits.full-integer.onnx" in done.files


def test_the_table_has_times_and_the_files_have_none(convert_all):
    done = convert_all()
    assert re.search(r"full-integer .* \d\S* ms .* \d\.\d\dx ", done.out)
    report = json.loads((done.folder / "digits.full-integer.report.json").read_text())
    assert not [k for k in json.dumps(report).split('"') if "second" in k or "latency" in k]


def test_json_has_every_mode(convert_all):
    done = convert_all("--json", "--float", "op:Softmax")
    found = done.document["modes"]
    assert list(found) == modes.names()
    assert found["int8-only"]["error"]["kind"] == "unsupported"
    assert found["full-integer"]["written"]["model"] == "digits.full-integer.onnx"
    assert found["full-integer"]["latency"]["speed"] > 0
    assert done.document["float"]["latency"]["speed"] == 1.0


def test_quiet_says_nothing(convert_all):
    done = convert_all("--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_without_data_the_others_are_listed(convert_all, tmp_path):
    (tmp_path / "m.onnx").write_bytes((modes.sample_folder() / "digits.onnx").read_bytes())
    done = convert_all("m.onnx")
    assert "needs calibration data" in rows(done)["int8-only"]
    assert "m.float16.onnx" in done.files


def test_dry_run_writes_nothing(convert_all):
    done = convert_all("--dry-run")
    assert (done.code, done.files) == (0, [])
    assert sorted(rows(done)) == modes.names()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.onnx"], "x.onnx is no folder"),
        (["--recipe", "x.yaml"], "--mode and --recipe exclude each other"),
        (["--keep", "--min-sqnr", "3"], "--keep is not possible with --mode all"),
        (["--calibrator", "mimax"], "no mode takes --calibrator mimax"),
        (["--float", "op:Softmx"], "did you mean 'Softmax'"),
    ],
)
def test_wrong_usage(convert_all, arguments, message):
    done = convert_all(*arguments)
    said = next(line for line in done.err.splitlines() if line.startswith("error: "))
    assert (done.code, done.out, done.files) == (2, "", [])
    assert message in said


def test_several_models_are_refused(convert_all, tmp_path):
    (tmp_path / "all.yaml").write_text("signatures: {a: {model: a.onnx}}")
    done = convert_all("all.yaml")
    assert done.code == 2
    assert "--mode all compares the modes of one model" in done.err


def test_no_mode_at_all_is_a_failure(convert_all):
    done = convert_all("--min-sqnr", "299")
    assert done.code in (1, 4)
    assert done.files == []


def test_labels_are_a_column():
    refusal = UnsupportedError("no", reasons=[str(i) for i in range(9)], hint="h")
    sections = comparison.of({"a": refusal}, {}, 1)
    assert sections[0].rows == (("a", *"-" * 10, "refused: no"),)
    assert sections[1].lines == ("no", "0", "1", "2", "3", "4", "and 4 more reasons", "hint: h")


def test_times_are_against_float():
    cells = comparison._times("a", {"": Latency(0.001, 0.002), "a": Latency(0.0005, 0.001)})
    assert cells == ("1 ms", "0.5 ms", "2.00x")
