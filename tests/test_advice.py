"""Which mode is recommended for which model and target: facts in, advice out."""

from __future__ import annotations

import shlex
from dataclasses import asdict, replace

import models
import onnx
import pytest

from quantcli import advice, api, documents, modes, prospects
from quantcli.advice_tables import NOTES, OUTSIDE, RULES, SPEEDS, TARGETS
from quantcli.errors import UnsupportedError, UsageError
from quantcli.facts import DENSE, SCORES, Facts, Load
from quantcli.prospects import Prospect
from quantcli.workload import ATTENTION, CONVOLUTION, DEPTHWISE, EMBEDDING, PRODUCT, RECURRENT

CONV = Load(20, 400_000_000, 1_000_000, 4_000_000)


def made_of(output=SCORES, samples=0, operators=None, **loads):
    known = {k.replace("_", " "): v for k, v in loads.items()}
    size = sum(v.weight_bytes for v in known.values())
    return Facts(
        operators=operators or {"Relu": 3}, loads=known, parameters=size // 4, float_bytes=size,
        file_bytes=size + 1000, output=output, samples=samples,
    )  # fmt: skip


CNN = made_of(**{CONVOLUTION: CONV, DEPTHWISE: Load(10, 10_000_000, 10_000, 40_000)})
UPSCALER = replace(CNN, output=DENSE)
PERCEPTRON = made_of(**{PRODUCT: CONV})
SPEECH = made_of(**{RECURRENT: CONV, PRODUCT: Load(1, 1000, 1000, 4000)})
WRITTEN_OUT = replace(PERCEPTRON, states=2, operators={"MatMul": 4, "Sigmoid": 3, "Tanh": 2})
LANGUAGE = made_of(**{PRODUCT: CONV, ATTENTION: CONV, EMBEDDING: CONV}, operators={"Softmax": 4, "MatMul": 20})
VISION_TRANSFORMER = made_of(**{PRODUCT: CONV, ATTENTION: CONV}, operators={"Softmax": 4, "MatMul": 20})
HALF = replace(CNN, half_bytes=CNN.float_bytes)


def prospect(facts, mode, **known):
    recipe = modes.resolve(mode)
    kind, weights, output_format = prospects.arithmetic(recipe)
    ratio = {"int8": 0.27, "int4": 0.16, "float16": 0.5}.get(weights, 1.0)
    macs = {k: v.macs for k, v in facts.loads.items()} if weights in ("int8", "int4") else {}
    default = Prospect(
        mode, arithmetic=(kind, weights, output_format), needs_data=recipe.needs_data,
        bytes=round(facts.file_bytes * ratio), integer=10 * (ratio < 0.5), stored=10 * (ratio < 1), macs=macs,
    )  # fmt: skip
    return replace(default, **known)


def advised(facts, target="cpu", refuse=(), dataset=None):
    offered = [
        prospect(facts, m, refused="no", reasons=(("no rule", "2 LSTM"),), bytes=None)
        if m in refuse
        else prospect(facts, m)
        for m in modes.names()
    ]
    return advice.advise(facts, offered, advice.Shown("m.onnx", dataset, target))


@pytest.mark.parametrize(
    ("facts", "samples", "target", "mode"),
    [
        (CNN, 100, "cpu", "full-integer"),
        (CNN, 100, "edge-integer", "int8-only"),
        (CNN, 0, "edge-integer", "int8-only"),
        (CNN, 0, "cpu", "dynamic-range"),
        (CNN, 0, "size", "dynamic-range"),
        (CNN, 100, "gpu", "float16"),
        (PERCEPTRON, 0, "cpu", "dynamic-range"),
        (PERCEPTRON, 100, "cpu", "full-integer"),
        (SPEECH, 0, "cpu", "dynamic-range"),
        (SPEECH, 100, "cpu", "dynamic-range"),
        (WRITTEN_OUT, 100, "cpu", "dynamic-range"),
        (UPSCALER, 100, "cpu", "16x8"),
        (UPSCALER, 0, "cpu", "dynamic-range"),
        (LANGUAGE, 0, "cpu", "dynamic-range"),
        (LANGUAGE, 100, "cpu", "dynamic-range"),
        (LANGUAGE, 0, "size", "weight-only-int4"),
        (VISION_TRANSFORMER, 100, "cpu", "dynamic-range"),
        (VISION_TRANSFORMER, 0, "size", "weight-only-int4"),
        (HALF, 100, "cpu", "none"),
    ],
)
def test_the_mode_for_a_model_and_a_target(facts, samples, target, mode):
    assert advised(replace(facts, samples=samples), target).mode == mode


def test_every_mode_has_its_place():
    assert sorted(a.mode for a in advised(CNN).alternatives) == modes.names()


def test_a_mode_that_refuses_comes_last_with_its_reasons_and_the_next_one_is_taken():
    found = advised(replace(CNN, samples=9), "edge-integer", refuse=("int8-only", "16x8"))
    assert found.mode == "full-integer"
    assert {a.mode for a in found.alternatives[-2:]} == {"int8-only", "16x8"}
    assert found.alternatives[-1].lost == ("refused: 2 LSTM: no rule",)
    assert any("int8-only would come first, but it refuses: no" in r for r in found.reasons)


def test_a_mode_that_gains_nothing_is_passed_over():
    offered = [prospect(CNN, m) for m in modes.names()]
    idle = [replace(p, integer=0, stored=0, bytes=CNN.file_bytes) if p.mode == "dynamic-range" else p for p in offered]
    assert advice.advise(CNN, idle, advice.Shown()).mode == "float16"


def test_where_nothing_gains_the_float_model_is_the_answer():
    idle = [replace(prospect(CNN, m), integer=0, stored=0, bytes=CNN.file_bytes) for m in modes.names()]
    assert advice.advise(CNN, idle, advice.Shown()).mode == "none"


def test_a_new_mode_is_listed_after_those_that_are_known():
    offered = [*(prospect(CNN, m) for m in modes.names()), replace(prospect(CNN, "float16"), mode="my-own")]
    found = [a.mode for a in advice.advise(CNN, offered, advice.Shown()).alternatives]
    assert found.index("my-own") > found.index("dynamic-range")


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "samples", "command"),
    [
        (advice.Shown("my model.onnx", "d.yaml"), 9,
         "quant convert 'my model.onnx' --mode full-integer --representative-dataset d.yaml"),
        (advice.Shown("m.onnx"), 0, "quant convert m.onnx --mode dynamic-range"),
        (advice.Shown("m.onnx", None, "edge-integer"), 0,
         "quant convert m.onnx --mode int8-only --representative-dataset SPEC.yaml"),
        (advice.Shown(), 9, "quant convert --mode full-integer"),
    ],
)  # fmt: skip
def test_the_command(shown, samples, command):
    facts = replace(CNN, samples=samples)
    found = advice.advise(facts, [prospect(facts, m) for m in modes.names()], shown)
    assert found.command == command
    assert any("SPEC.yaml first" in n for n in found.notes) == ("SPEC.yaml" in command)


# ---- what is expected ------------------------------------------------------------------------------------------------


def test_speed_without_changed_work_is_that_of_float():
    assert advice.speed_of(Prospect("m", arithmetic=("uint8", "int8", "qdq")), CNN) == (1.0, 1.0)


def test_speed_is_a_range_within_that_of_its_kinds():
    low, high = advice.speed_of(prospect(CNN, "full-integer"), CNN)
    assert 0.5 < low < 2 < high < 4.1


def test_small_operators_gain_less():
    small = replace(CNN, loads={CONVOLUTION: replace(CONV, macs=100_000)})
    ends = [advice.speed_of(prospect(f, "full-integer"), f) for f in (small, CNN)]
    assert all(a < b for a, b in zip(*ends, strict=True))


def test_an_arithmetic_that_was_not_measured_promises_nothing():
    assert advice.speed_of(prospect(CNN, "full-integer", arithmetic=("x", "y", "z")), CNN) == (1.0, 1.0)


def test_risks_stand_beside_the_mode_that_has_them():
    mind = {a.mode: " ".join(a.mind) for a in advised(replace(LANGUAGE, samples=9)).alternatives}
    assert "static 8 bits ruin most transformers" in mind["full-integer"]
    assert "transformers" not in mind["dynamic-range"]


def test_little_models_are_told_that_little_is_gained():
    assert any("the model is small" in n for n in advised(made_of(**{PRODUCT: Load(1, 100, 100, 400)})).notes)


# ---- the tables ------------------------------------------------------------------------------------------------------


def test_rules_and_notes_name_modes_that_exist():
    named = {m for r in (*RULES, *NOTES) for m in (r.ranking if hasattr(r, "ranking") else r.modes)}
    assert named <= set(modes.names())


def test_every_trait_of_the_tables_can_be_said():
    extreme = replace(CNN, samples=5, half_bytes=10**9, states=1, free=("h",), control=("Loop",), file_bytes=10**9)
    busy = replace(extreme, operators={"Softmax": 1, "Sigmoid": 1, "Tanh": 1}, loads={
        CONVOLUTION: CONV, DEPTHWISE: CONV, ATTENTION: CONV, EMBEDDING: CONV, RECURRENT: CONV,
    })  # fmt: skip
    tiny = replace(CNN, float_bytes=9, samples=9, loads={PRODUCT: Load(1, 9, 9, 9)})
    said = set().union(*(
        advice.traits_of(f, t)
        for t in TARGETS
        for f in (busy, extreme, UPSCALER, PERCEPTRON, tiny)
    ))  # fmt: skip
    assert {t for r in (*RULES, *NOTES) for t in r.when} <= said


def test_the_last_rule_holds_always_and_every_rule_ends_with_a_mode_that_needs_no_data():
    assert RULES[-1].when == frozenset()
    assert [r for r in RULES if modes.resolve(r.ranking[-1]).needs_data] == []


def test_every_mode_that_changes_numbers_has_speeds():
    floats = ("float16", "float32")
    wanted = {prospects.arithmetic(modes.resolve(m)) for m in modes.names()}
    assert {a for a in wanted if a[1] not in floats} <= set(SPEEDS)


def test_the_table_of_shares_has_no_end():
    assert OUTSIDE[-1][0] == float("inf")


# ---- from a file -----------------------------------------------------------------------------------------------------


def saved(folder, source, **arrays):
    onnx.save(models.text(source, **arrays), folder / "m.onnx")
    return folder / "m.onnx"


def perceptron(folder):
    return saved(
        folder, "(float[N,512] x) => (float[N,10] y) { h = MatMul(x, w)  r = Relu(h)  y = MatMul(r, v) }",
        w=models.weight(512, 256), v=models.weight(256, 10),
    )  # fmt: skip


def test_advice_of_a_file_writes_nothing(tmp_path):
    found = api.advise(perceptron(tmp_path))
    assert found.mode == "dynamic-range"
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert documents.text(asdict(found))


def test_the_command_of_the_advice_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    perceptron(tmp_path)
    _, _, model, _, mode = shlex.split(api.advise("m.onnx").command)
    assert api.convert(model, mode=mode).output.exists()


@pytest.mark.parametrize("mode", modes.names())
def test_expected_sizes_are_near_the_real_ones(mode, tmp_path):
    path = perceptron(tmp_path)
    feeds = models.samples(onnx.load(path), N=1)
    expected = {a.mode: a.bytes for a in api.advise(path, representative_dataset=feeds).alternatives}[mode]
    made = api.convert(path, mode=mode, representative_dataset=feeds, output=tmp_path / "q.onnx")
    assert expected == pytest.approx(made.output.stat().st_size, rel=0.1)


def test_an_embedding_that_1024_elements_stay_under_is_not_stored(tmp_path):
    path = saved(tmp_path, "(float[1,8] x) => (float[1,8] y) { y = MatMul(x, w) }", w=models.weight(8, 8))
    found = {a.mode: a for a in api.advise(path).alternatives}
    assert found["dynamic-range"].stored == 0
    assert any("under 1024" in text for text in found["dynamic-range"].lost) or not found["dynamic-range"].lost


def test_refusals_are_counted_by_operator(tmp_path):
    path = saved(
        tmp_path, "(float[10,1,8] x) => (float[10,1,1,16] y) { y = LSTM<hidden_size = 16>(x, w, r) }",
        w=models.weight(1, 64, 8), r=models.weight(1, 64, 16),
    )  # fmt: skip
    found = {a.mode: a for a in api.advise(path).alternatives}
    assert found["int8-only"].bytes is None
    assert found["int8-only"].lost[0].startswith("refused: 1 LSTM: ")


def test_reasons_of_any_form_are_kept():
    error = UnsupportedError("no", reasons=["Conv 'a': why: so", 'Conv "b\'s": why: so', "just because"])
    found = prospects.refused(modes.resolve("int8-only"), error)
    assert found.reasons == (("why: so", "2 Conv"), ("just because", "1"))


def test_an_unknown_target_is_a_usage_error():
    with pytest.raises(UsageError, match="did you mean 'edge-integer'"):
        api.advise(target="edge-int")
