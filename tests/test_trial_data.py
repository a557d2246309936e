"""Without data a model is run on random samples: the first guess at its shapes and integers that it takes."""

from __future__ import annotations

import conversion
import models
import numpy as np
import onnx
import pytest

from quantcli import api, errors, jobs, runtime
from quantcli.data import NATURAL, InputSpec, guesses, random_dataset
from quantcli.data.synthetic import LARGEST, MOST_GUESSES

F32, I64 = np.dtype("float32"), np.dtype("int64")

PICKY = {  # a model that does not take the natural guess, and the shapes of a sample that it takes
    "a shape as an input": (
        "(float[1,8] x, int64[2] to) => (float y) { y = Expand(x, to) }",
        {},
        {"x": (1, 8), "to": (2,)},
    ),
    "indices that choose a batch": (
        (
            "(float[1,2,8,8] x, float[rois,4] r, int64[rois] at) => (float y)"
            " { y = RoiAlign<output_height=2, output_width=2>(x, r, at) }"
        ),
        {},
        {"x": (1, 2, 8, 8), "r": (1, 4), "at": (1,)},
    ),
    "a reflected border": (
        (
            "(float[batch,samples] x) => (float y) { k = Constant<value = int64[4] {0, 64, 0, 64}>()\n"
            ' y = Pad<mode="reflect">(x, k) }'
        ),
        {},
        {"x": (1, 128)},
    ),
    "frames of a fixed number of samples": (
        "(float[batch,samples] x) => (float y) { k = Constant<value = int64[3] {1, -1, 192}>()\n y = Reshape(x, k) }",
        {},
        {"x": (1, 576)},
    ),
    "audio": (
        "(float[batch,samples] x) => (float y) { k = Constant<value = int64[2] {-1, 4000}>()\n y = Reshape(x, k) }",
        {},
        {"x": (1, 16000)},
    ),
    "a state with a batch without a name": (
        (
            "(float[batch,8] x, float[2,?,8] h) => (float y) { k = Constant<value = int64[3] {2, 1, 8}>()\n"
            " r = Reshape(h, k)\n y = Add(r, x) }"
        ),
        {},
        {"x": (1, 8), "h": (2, 1, 8)},
    ),
    "channels that nothing says": (
        "(float[?,?,?,?] x) => (float y) { y = Conv(x, w) }",
        {"w": models.weight(2, 3, 3, 3)},
        {"x": (1, 3, 8, 8)},
    ),
    "a waveform without a batch": (
        "(float[samples] x) => (float y) { k = Constant<value = int64[2] {-1, 32}>()\n y = Reshape(x, k) }",
        {},
        {"x": (32,)},
    ),
    "a shape that would leave nothing": (
        "(float[1,1] x, int64[2] to) => (float y) { y = Expand(x, to) }",
        {},
        {"x": (1, 1), "to": (2,)},
    ),
}


@pytest.mark.parametrize(("source", "arrays", "shapes"), PICKY.values(), ids=PICKY)
def test_samples_are_found_that_the_model_takes(tmp_path, source, arrays, shapes):
    session = loaded(tmp_path, source, arrays)
    data = jobs.trial_data(session, tmp_path / "m.onnx")
    for feed in data:
        assert {n: x.shape for n, x in feed.items()} == shapes
        assert any(x.size for x in session.run(feed).values())


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("name", ["indices that choose a batch", "a reflected border"])
def test_random_data_are_found_alike_and_every_sample_runs(tmp_path, name, count):
    source, arrays, shapes = PICKY[name]
    onnx.save(models.text(source, opset=17, **arrays), tmp_path / "m.onnx")
    result = api.convert(
        tmp_path / "m.onnx", mode="full-integer", output=tmp_path / "o.onnx", options=api.Options(random_data=count)
    )
    assert len(result.state.data) == count
    assert {n: x.shape for n, x in next(iter(result.state.data)).items()} == shapes
    assert any("random samples of the first kind that the model takes" in w for w in result.report["warnings"])


def test_a_model_that_takes_the_natural_guess_gets_it(tmp_path):
    session = loaded(
        tmp_path, "(float[batch,n] x, int64[batch,k] i) => (float y, int64 j) { y = Relu(x)\n j = Neg(i) }"
    )
    data = jobs.trial_data(session, tmp_path / "m.onnx")
    specs = jobs.input_specs(session, tmp_path / "m.onnx")
    assert data.digest() == random_dataset(specs, jobs.TRIAL_SAMPLES).digest()
    assert not data.warnings


def test_the_failure_of_the_most_natural_samples_is_told(tmp_path):
    session = loaded(
        tmp_path, "(float[batch,n] x) => (float y) { k = Constant<value = int64[1] {7}>()\n y = Reshape(x, k) }"
    )
    with pytest.raises(errors.ModelError) as caught:
        jobs.trial_data(session, tmp_path / "m.onnx")
    assert "{1,8}" in caught.value.message
    assert "Reshape" in caught.value.message
    assert "--representative-dataset" in caught.value.hint


SPECS = {
    "fixed": [InputSpec("x", F32, (1, 3))],
    "free": [InputSpec("x", F32, (None, None, None, None))],
    "integers": [InputSpec("x", I64, ("b", "s")), InputSpec("h", F32, (2, None, 4)), InputSpec("n", I64, (None,))],
    "large": [InputSpec("x", F32, (None, 512, None, None))],
}


@pytest.mark.parametrize("specs", SPECS.values(), ids=SPECS)
def test_guesses_are_few_different_and_begin_with_the_natural_one(specs):
    found = guesses(specs)
    assert found[0] == NATURAL
    assert len(found) == len(set(found)) <= MOST_GUESSES


def test_guesses_at_what_is_fixed_are_one():
    assert guesses(SPECS["fixed"]) == [NATURAL]


@pytest.mark.parametrize("specs", SPECS.values(), ids=SPECS)
def test_no_guess_but_the_natural_one_is_huge(specs):
    for guess in guesses(specs)[1:]:
        feed = next(iter(random_dataset(specs, 1, guess=guess)))
        assert max(x.size for x in feed.values()) <= LARGEST


@pytest.mark.parametrize("name", ["batch", "batch_size", "N", "decoder_batch"])
def test_a_dimension_named_like_a_batch_is_one(name):
    (feed,) = random_dataset([InputSpec("h", F32, (2, name, 4))], 1)
    assert feed["h"].shape == (2, 1, 4)


def test_n_is_a_batch_only_where_no_other_dimension_is():
    (feed,) = random_dataset([InputSpec("x", F32, ("batch", "n"))], 1)
    assert feed["x"].shape == (1, 8)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "bool"])
@pytest.mark.parametrize("guess", guesses([InputSpec("x", I64, ("b", "s"))]), ids=str)
def test_every_fill_fits_its_type(guess, dtype):
    (feed,) = random_dataset([InputSpec("x", np.dtype(dtype), ("b", "s"))], 1, guess=guess)
    assert feed["x"].dtype == dtype
    assert feed["x"].min() >= 0


def loaded(folder, source, arrays=None):
    model = models.text(source, opset=17, **(arrays or {}))
    onnx.save(model, folder / "m.onnx")
    assert conversion.session(model).get_inputs()
    return runtime.load(jobs.files.load_model(folder / "m.onnx"))
