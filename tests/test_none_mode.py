"""The mode none: the prepared float model, proven operator by operator."""

from __future__ import annotations

import models
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from quantcli import api, modes
from quantcli.data import InputSpec, from_arrays
from quantcli.errors import InternalError, ModelError
from quantcli.passes.check_operators import CheckOperators
from quantcli.state import State

NET = "(float[2,3,8,8] x) => (float y) { a = Conv(x, w) b = BatchNormalization(a, s, o, m, v) y = Relu(b) }"


def net():
    four = {n: np.abs(models.weight(4, seed=i)) + 0.5 for i, n in enumerate("somv")}
    return models.text(NET, w=models.weight(4, 3, 3, 3), **four)


def state_of(original, prepared=None):
    feeds = models.samples(original, count=2)
    first, second = (ir.from_proto(m) for m in (original, prepared or original))
    specs = [InputSpec(name, array.dtype, array.shape) for name, array in feeds[0].items()]
    return State(first, second, modes.resolve("none"), data=from_arrays(feeds, specs))


def nothing(done, total):
    del done, total


def test_the_result_is_the_prepared_float_model(bench):
    converted = bench.convert(net(), "none", nearest=False)
    assert [n.op_type for n in converted.model.graph.node] == ["Conv", "Relu"]
    assert all(t.data_type == onnx.TensorProto.FLOAT for t in converted.model.graph.initializer)
    assert converted.result.report["verification"]["outputs"]["y"]["sqnr_db"] > 100


def test_every_operator_is_float_and_says_why(bench):
    converted = bench.convert(net(), "none", nearest=False)
    assert converted.fates("Conv", "Relu") == {"float"}
    assert set(converted.floats().values()) == {"the mode quantizes nothing"}


def test_it_needs_no_data(bench):
    source = bench.folder / "float.onnx"
    onnx.save(net(), source)
    result = api.convert(source, mode="none", output=bench.folder / "out.onnx")
    assert result.output.exists()
    assert [n for n in result.report["notes"] if "random samples" in n]
    assert result.report["random_data"] is False


def test_a_model_that_runs_on_nothing_random_is_an_error(bench):
    source = bench.folder / "float.onnx"
    onnx.save(models.text("(float[N,M] x) => (float y) { y = Reshape(x, s) }", s=models.ints(7919)), source)
    from quantcli import api  # noqa: PLC0415 - beside its use

    with pytest.raises(ModelError) as caught:
        api.convert(source, mode="none", output=bench.folder / "out.onnx")
    assert "representative-dataset" in caught.value.hint
    assert not (bench.folder / "out.onnx").exists()


def test_what_holds_no_float_is_untouched(bench):
    model = models.text("(float[2,3] x) => (float y, int64 s) { s = Shape(x) y = Relu(x) }")
    assert bench.convert(model, "none", nearest=False).fates("Shape") == {"untouched"}


def test_a_changed_operator_is_named():
    prepared = models.text("(float[2,3] x) => (float y) { h = Mul(x, c) y = Relu(h) }", c=2.0)
    original = models.text("(float[2,3] x) => (float y) { h = Mul(x, c) y = Relu(h) }", c=3.0)
    with pytest.raises(InternalError, match=r"tensor 'h' of Mul"):
        CheckOperators()(state_of(original, prepared), nothing)


def test_equal_models_pass_and_the_number_of_tensors_is_said():
    state = CheckOperators()(state_of(net()), nothing)
    assert state.report.notes == ("3 tensors compared with the original model, operator by operator: all agree",)
