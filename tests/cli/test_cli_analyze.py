"""``quant analyze`` shows tables for people and one document for programs."""

from __future__ import annotations

import pytest
from command_line import run_in

GRANULARITIES = ("per-tensor", "per-channel", "per-block 32", "per-block 64", "per-block 128")


@pytest.fixture(scope="module")
def analyzed(tmp_path_factory):
    return lambda *arguments: run_in(tmp_path_factory.mktemp("a"), "analyze", *arguments)


def test_granularities_stand_side_by_side(analyzed):
    done = analyzed("granularity", "--samples", "2")
    assert done.code == 0, done.err
    for bits in ("8-bit weights", "4-bit weights"):
        assert bits in done.out
    assert all(name in done.out for name in GRANULARITIES)
    assert sum(line.split()[:1] == ["classifier"] for line in done.out.splitlines()) == 2
    assert sum("all weights, worst output" in line for line in done.out.splitlines()) == 2
    assert done.files == []


def test_granularities_as_a_document(analyzed):
    found = analyzed("granularity", "--samples", "2", "--json").document
    assert (found["samples"], found["real_samples"]) == (2, True)
    first = next(o for o in found["operators"] if o["node"] == "classifier")
    assert first["losses"][0].keys() == {"bits", "granularity", "mse", "weight_sqnr_db", "output_sqnr_db"}
    assert [e.get("block_size") for e in found["model"][:5]] == [None, None, 32, 64, 128]
    assert len(found["outputs"]["probabilities"]) == 10


def test_ranges_stand_side_by_side(analyzed):
    done = analyzed("ranges", "--samples", "2")
    assert done.code == 0, done.err
    header = next(line for line in done.out.splitlines() if "minmax" in line)
    assert "entropy" in header
    assert any(line.split()[:2] == ["output", "probabilities"] for line in done.out.splitlines())
    assert done.files == []


def test_ranges_as_a_document(analyzed):
    found = analyzed("ranges", "--samples", "2", "--json").document
    assert found["tensors"]["image"]["minmax"].keys() == {"low", "high", "sqnr_db"}
    assert set(found["outputs"]["probabilities"]) == set(found["tensors"]["image"])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "granularity"),
        (("rangs",), 2, "No such command 'rangs'"),
        (("granularity", "no.onnx"), 3, "no.onnx"),
        (("granularity", "--samples", "0"), 2, "--samples"),
    ],
)
def test_wrong_calls_are_told(arguments, code, said, analyzed):
    done = analyzed(*arguments)
    assert done.code == code
    assert said in done.err
