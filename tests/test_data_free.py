"""Without data, samples are made that the model agrees with: its BatchNormalization, its biases, its scores."""

from __future__ import annotations

from pathlib import Path

import models
import numpy as np
import onnx
import pytest

from quantcli import api, files, jobs, runtime
from quantcli.data.drawing import dead_leaves
from quantcli.evidence import evidence_of, table_rows
from quantcli.passes.fold_batch_norm import FoldBatchNorm
from quantcli.state import State

PICTURES = "(float[1,3,32,32] x) => (float[1,8,32,32] y) {"
WITH_BIAS = PICTURES + " a = Conv<pads = [1, 1, 1, 1]>(x, w, b) y = Relu(a) }"
NORMALIZED = PICTURES + (" a = Conv<pads = [1, 1, 1, 1]>(x, w) n = BatchNormalization(a, g, o, m, s) y = Relu(n) }")
USUAL = {"0 to 1": (1.0, 0.0), "-1 to 1": (2.0, -1.0), "0 to 255": (255.0, 0.0)}


def pictures(scale, offset, count=16):
    rng = np.random.default_rng(7)
    return np.stack([dead_leaves(rng, 32, 32, 3).transpose(2, 0, 1) * scale + offset for _ in range(count)])


def trained_on(scale, offset):
    """A convolution with the BatchNormalization that training on such pictures leaves: standard normal results."""
    weight = models.weight(8, 3, 3, 3)
    plain = models.text(PICTURES + " y = Conv<pads = [1, 1, 1, 1]>(x, w) }", w=weight)
    session = runtime.load(files.load_model(saved(plain)))
    seen = np.concatenate([session.run({"x": p[None].astype(np.float32)})["y"] for p in pictures(scale, offset)])
    one = np.ones(8, np.float32)
    return models.text(
        NORMALIZED, w=weight, g=one, o=np.zeros(8, np.float32), m=seen.mean((0, 2, 3)), s=seen.var((0, 2, 3))
    )


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def saved(model, name="m.onnx"):
    onnx.save(model, name)
    return Path(name)


def data_of(model, **options):
    job = jobs.Job(saved(model), saved(model).with_name("o.onnx"))
    asked = api.Options(data_free=True, threads=1, **options)
    original = jobs.loaded(job, asked)
    return jobs.begun(job, original, api.resolved("full-integer", asked), asked).data


@pytest.mark.parametrize("usual", USUAL.values(), ids=USUAL)
def test_the_range_of_the_training_data_is_found_from_batch_normalization(usual):
    data = data_of(trained_on(*usual), samples=8)
    values = np.stack([f["x"] for f in data])
    low, high = usual[1], usual[0] + usual[1]
    assert values.min() <= low + 0.1 * usual[0]
    assert high - 0.1 * usual[0] <= values.max() <= high + 1.5 * usual[0]
    assert low - 1.5 * usual[0] <= values.min()


@pytest.mark.parametrize(("size", "expected"), [(0.5, 1.0), (100.0, 255.0)])
def test_the_size_of_pictures_follows_from_biases(size, expected):
    """Channels with the same bias as spread: what the weights make of pixels from 0 to ``expected``."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.2, (8, 3, 3, 3)).astype(np.float32)
    weight -= weight.mean(axis=(1, 2, 3), keepdims=True)
    bias = (rng.choice([-1, 1], 8) * size * 0.4).astype(np.float32)
    values = np.stack([f["x"] for f in data_of(models.text(WITH_BIAS, w=weight, b=bias), samples=4)])
    assert expected / 3 <= np.ptp(values) <= expected * 3


def test_other_inputs_than_pictures_get_a_deviation():
    weight = np.eye(64, dtype=np.float32)
    model = models.text(
        "(float[1,64] x) => (float[1,64] y) { a = Gemm(x, w, b) y = Relu(a) }", w=weight, b=weight[0] * 256
    )
    values = np.stack([f["x"] for f in data_of(model, samples=16)])
    assert 16 <= values.std() <= 64  # the bias has a root mean square of 32


def test_tokens_are_drawn_from_the_whole_table():
    model = models.text(
        "(int64[1,seq] ids) => (float[1,s,4] y) { e = Gather(table, ids) y = Relu(e) }", table=models.weight(50, 4)
    )
    tokens = np.concatenate([f["ids"].ravel() for f in data_of(model)])
    assert tokens.max() == 49
    assert tokens.min() == 0


def test_free_dimensions_are_large_enough_for_pictures():
    model = models.text(
        "(float[n,3,h,w] x) => (float[n,2,a,b] y) { c = Conv(x, k, o) y = Relu(c) }",
        k=models.weight(2, 3, 3, 3),
        o=models.weight(2),
    )
    assert next(iter(data_of(model, samples=1)))["x"].shape == (1, 3, 64, 64)


def test_an_input_that_the_model_says_nothing_of_is_standard_normal():
    model = models.text(
        "(float[1,64] x, float[1,8] h) => (float[1,64] y, float[1,8] z)"
        " { a = Gemm(x, w, b) y = Relu(a) z = MatMul(h, v) }",
        w=np.eye(64, dtype=np.float32), b=np.full(64, 32, np.float32), v=models.weight(8, 8),
    )  # fmt: skip
    feeds = list(data_of(model, samples=64))
    assert np.std([f["h"] for f in feeds]) == pytest.approx(1.0, rel=0.15)
    assert np.std([f["x"] for f in feeds]) > 10


@pytest.mark.parametrize(("asked", "count"), [({}, 64), ({"samples": 5}, 5)])
def test_how_many_samples_are_made(asked, count):
    model = models.text(WITH_BIAS, w=models.weight(8, 3, 3, 3), b=models.weight(8))
    assert len(data_of(model, **asked)) == count


def convert(model, **options):
    asked = api.Options(data_free=True, samples=8, threads=1, **options)
    return api.convert(saved(model), mode="full-integer", output=saved(model).with_name("o.onnx"), options=asked)


def test_the_result_is_stamped():
    result = convert(trained_on(1.0, 0.0))
    assert result.report["random_data"] is True
    assert result.report["data"].startswith("data-free (8 samples; 'x': pictures from ")
    assert any("without data" in w for w in result.report["warnings"])
    assert '"random_data": true' in Path("o.encodings.json").read_text(encoding="utf-8")
    (stamp,) = [p.value for p in onnx.load("o.onnx").metadata_props if p.key == "quantcli.random_data"]
    assert stamp == "true"


def test_the_same_model_gives_the_same_bytes():
    model = trained_on(1.0, 0.0)
    made = []
    for _ in range(2):
        convert(model)
        made.append(Path("o.onnx").read_bytes())
    assert made[0] == made[1]


def test_a_mode_without_calibration_says_nothing_of_it():
    model = models.text("(float[1,64] x) => (float[1,64] y) { y = Gemm(x, w) }", w=models.weight(64, 64))
    asked = api.Options(data_free=True, threads=1)
    result = api.convert(saved(model), mode="dynamic-range", output=saved(model).with_name("o.onnx"), options=asked)
    assert result.report["random_data"] is False
    assert not any("without data" in w for w in result.report["warnings"])


# ---- what a model says ----------------------------------------------------------------------------------------------


def evidence(model, normal=None):
    return evidence_of(files.load_model(saved(model)), normal or {})


def cost(found, *feeds):
    session = runtime.load(found.model, outputs=found.tensors)
    return found.disagreement(session, [{"x": np.asarray(f, np.float32)} for f in feeds])


def test_data_that_batch_normalization_saw_agree_best():
    model = files.load_model(saved(trained_on(2.0, -1.0)))
    folded = FoldBatchNorm()(State(model, model, api.resolved("full-integer", api.Options())), lambda _d, _t: None)
    found = evidence_of(folded.model, folded.normal)
    own = cost(found, *pictures(2.0, -1.0)[:, None])
    others = [cost(found, *pictures(s, o)[:, None]) for s, o in ((1.0, 0.0), (4.0, -2.0), (2.0, 0.0), (255.0, 0.0))]
    assert min(others) > own + 0.3


def test_scores_that_no_sample_changes_disagree():
    model = models.text(
        "(float[1,4] x) => (float[1,5] y) { a = Gemm(x, w, b) y = Softmax<axis = -1>(a) }",
        w=models.weight(4, 5), b=models.weight(5),
    )  # fmt: skip
    found = evidence(model)
    feeds = np.random.default_rng(0).normal(0, 1, (4, 1, 4))
    assert cost(found, *(feeds * 1e-3)) > cost(found, *feeds) + 4


def test_infinite_results_are_no_agreement():
    found = evidence(models.text("(float[1,4] x) => (float[1,5] y) { a = Gemm(x, w, b) y = Relu(a) }",
                                 w=models.weight(4, 5), b=models.weight(5)))  # fmt: skip
    assert cost(found, np.full((1, 4), np.inf)) == np.inf


def test_a_table_is_found_behind_a_change_of_shape():
    model = models.text(
        "(int64[1,2] ids, int64[3] at) => (float[1,2,1,4] y, float[3,4] z)"
        " { i = Unsqueeze(ids, axes) y = Gather(table, i) j = Neg(at) z = Gather(table, j) }",
        table=models.weight(50, 4), axes=np.array([2]),
    )  # fmt: skip
    assert table_rows(files.load_model(saved(model))) == {"ids": 50}
