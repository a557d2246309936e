"""quant advise: what it shows and what it leaves alone."""

from __future__ import annotations

import pytest

from quantcli import modes
from quantcli.advice_tables import TARGETS
from quantcli.cli import advise as module


def test_the_targets_are_those_of_the_rules():
    assert module.TARGETS == TARGETS


@pytest.fixture
def advise(quant):
    return lambda *arguments: quant("advise", *arguments)


@pytest.mark.parametrize("said", ["recommended for cpu: full-integer", "million MAC", "expected, not measured"])
def test_the_advice_says(advise, said):
    assert said in advise().out


def test_the_last_line_is_the_command(advise):
    done = advise()
    assert (done.code, done.files) == (0, [])
    assert done.out.splitlines()[-1].strip() == "quant convert --mode full-integer"


def test_the_command_works(quant, advise):
    command = advise("--target", "gpu").out.splitlines()[-1].split()
    assert quant(*command[1:], "--quiet").code == 0


def test_every_mode_is_ranked(advise):
    out = advise().out
    assert [m for m in modes.names() if f"  {m} " not in out] == []


def test_the_target_decides(advise):
    assert "recommended for edge-integer: int8-only" in advise("--target", "edge-integer").out


def test_json_is_one_document(advise):
    done = advise("--json", "--target", "size")
    assert (done.err, done.document["target"]) == ("", "size")
    assert sorted(a["mode"] for a in done.document["alternatives"]) == modes.names()
    assert done.document["facts"]["loads"]["convolution"]["operators"] == 3


def test_a_refusal_is_explained(advise):
    assert "what weight-only-int4 would leave\n  refused: " in advise().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--target", "cup"], 2, "'--target': 'cup' is not one of"),
        (["no.onnx"], 3, "no.onnx: does not exist"),
        (["--representative-dataset", "no.yaml"], 3, "no.yaml: cannot be read"),
    ],
)
def test_errors(advise, arguments, code, message):
    done = advise(*arguments)
    assert (done.code, done.out) == (code, "")
    assert message in done.err.splitlines()[0]
