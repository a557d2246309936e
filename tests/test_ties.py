"""What leaves a model and enters it again, or another one, has one encoding on both sides."""

from __future__ import annotations

from dataclasses import dataclass

import models
import numpy as np
import onnx
import pytest

from quantcli import api
from quantcli.errors import DatasetError, UsageError

STEP = "(float[1,4] x, float[1,3] {old}) => (float y, float {new}) "
BODY = "{{ c = Concat<axis=1>(x, {old}) s = MatMul(c, w) {new} = Mul(s, two) y = MatMul({new}, v) }}"
RNG = np.random.default_rng(7)


def step(old="past", new="present", scale=2.0, seed=0):
    text = (STEP + BODY).format(old=old, new=new)
    w, v = models.weight(7, 3, seed=seed), models.weight(3, 2, seed=seed + 1)
    return models.text(text, w=w, v=v, two=np.asarray([scale], np.float32))


def feeds(old, spread=1.0):
    rng = np.random.default_rng(3)
    return [
        {"x": rng.normal(size=(1, 4)).astype(np.float32), old: (spread * rng.normal(size=(1, 3))).astype(np.float32)}
        for _ in range(12)
    ]


def encodings(result):
    return {e["name"]: (e["y_scale"], e["y_zero_point"]) for e in result.encodings["encodings"]}


@pytest.mark.parametrize("mode", ["int8-only", "16x8"])
@pytest.mark.parametrize(
    ("new", "old"),
    [("present", "past"), ("present_k_0", "past_k_0"), ("state_out", "state_in"), ("stateN", "state"), ("hn", "h0")],
)
def test_a_state_that_its_names_show_is_tied(bench, mode, new, old):
    converted = bench.convert(step(old, new), mode, feeds=feeds(old), fallback="float")
    found = encodings(converted.result)
    assert found[old] == found[new]
    assert any(n.startswith("tied:") for n in converted.result.report["notes"])


def test_a_tied_range_holds_both_sides(bench):
    wide, narrow = (bench.convert(step("past", new), "16x8", feeds=feeds("past", 50.0)) for new in ("present", "other"))
    assert encodings(wide.result)["past"][0] >= encodings(narrow.result)["past"][0]
    assert encodings(wide.result)["present"][0] >= encodings(narrow.result)["other"][0]
    assert encodings(narrow.result)["past"] != encodings(narrow.result)["other"]


def test_equal_names_of_one_model_are_no_tie(bench):
    converted = bench.convert(step("a", "b"), "16x8", feeds=feeds("a"))
    assert not [n for n in converted.result.report["notes"] if n.startswith("tied:")]


# ---- several models --------------------------------------------------------------------------------------------------

ENCODER = "(float[1,4] x) => (float code) { h = MatMul(x, w) code = Tanh(h) }"
DECODER = "(float[1,3] code, float[1,3] held) => (float y, float kept) { kept = Add(code, held) y = MatMul(kept, v) }"


@dataclass
class Pair:
    folder: object

    def spec(self, ties="", model="encoder.onnx"):
        path = self.folder / "pair.yaml"
        path.write_text(
            f"signatures:\n  encode: {{model: {model}, dataset: encode.npz}}\n"
            f"  decode:\n    model: decoder.onnx\n    inputs:\n      code: {{npz: decode.npz}}\n"
            f"      held: {{npz: decode.npz}}\n{ties}"
        )
        return path

    def convert(self, mode="16x8", ties="", **options):
        return api.convert_signatures(
            self.spec(ties), mode=mode, output=self.folder, options=api.Options(threads=1, **options)
        )


@pytest.fixture
def pair(tmp_path):
    onnx.save(models.text(ENCODER, w=models.weight(4, 3)), tmp_path / "encoder.onnx")
    onnx.save(models.text(DECODER, v=models.weight(3, 2)), tmp_path / "decoder.onnx")
    rng = np.random.default_rng(5)
    np.savez(tmp_path / "encode.npz", x=rng.normal(size=(10, 1, 4)).astype(np.float32))
    codes, held = (rng.normal(size=(10, 1, 3)).astype(np.float32) for _ in range(2))
    np.savez(tmp_path / "decode.npz", code=codes, held=held)
    return Pair(tmp_path)


def test_a_tensor_that_enters_another_model_has_one_encoding(pair):
    results = pair.convert(input_type="int16", output_type="int16")
    assert encodings(results["encode"])["code"] == encodings(results["decode"])["code"] == (2.0**-15, 0)


def test_integers_can_be_passed_on(pair):
    results = pair.convert(input_type="int16", output_type="int16")
    types = {
        name: {v.name: v.type.tensor_type.elem_type for v in (*g.input, *g.output)}
        for name, r in results.items()
        for g in (onnx.load(r.output).graph,)
    }
    assert types["encode"]["code"] == types["decode"]["code"] == onnx.TensorProto.INT16


def test_a_declared_tie_is_kept(pair):
    found = encodings(pair.convert(ties="ties:\n  - [decode.kept, decode.held]\n")["decode"])
    assert found["kept"] == found["held"]


@pytest.mark.parametrize("mode", ["none", "dynamic-range"])
def test_a_tie_without_encodings_is_said(pair, mode):
    notes = pair.convert(mode)["decode"].report["notes"]
    assert [n for n in notes if n.startswith("tied:") and "no encoding to share" in n]


def test_all_files_of_all_models_are_written(pair):
    results = pair.convert()
    assert sorted(r.output.name for r in results.values()) == ["decoder.16x8.onnx", "encoder.16x8.onnx"]
    assert all(r.output.exists() for r in results.values())


def test_nothing_is_written_where_one_model_fails(pair):
    (pair.folder / "decoder.onnx").write_bytes(b"no model")
    before = sorted(pair.folder.iterdir())
    pair.spec()
    with pytest.raises(Exception, match=r"decoder\.onnx"):
        pair.convert()
    assert sorted(pair.folder.iterdir()) == sorted({*before, pair.folder / "pair.yaml"})


@pytest.mark.parametrize(
    ("ties", "words"),
    [
        ("ties:\n  - [decode.kep, decode.held]\n", "'decode.kep' is no output; did you mean 'kept'"),
        ("ties:\n  - [decode.kept, decode.kept]\n", "'decode.kept' is no input; known: code, held"),
        ("ties:\n  - [dec.kept, decode.held]\n", "expected SIGNATURE.TENSOR"),
        ("ties:\n  - [decode.kept]\n", "a tie has 1 tensors, expected two"),
    ],
)
def test_a_wrong_tie_is_an_error(pair, ties, words):
    with pytest.raises(DatasetError) as caught:
        pair.convert(ties=ties)
    assert words in caught.value.message


def test_two_models_of_one_name_are_an_error(pair):
    (pair.folder / "other").mkdir()
    (pair.folder / "other" / "decoder.onnx").write_bytes((pair.folder / "encoder.onnx").read_bytes())
    with pytest.raises(UsageError, match="two signatures would write"):
        api.convert_signatures(pair.spec(model="other/decoder.onnx"), mode="none", output=pair.folder)


def test_the_output_of_several_models_is_a_folder(pair):
    with pytest.raises(UsageError, match="is no folder"):
        api.convert_signatures(pair.spec(), mode="none", output=pair.folder / "nowhere")
