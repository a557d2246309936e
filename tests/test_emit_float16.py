"""float16: half the file, the same graph after loading; in bodies too; what float16 cannot hold stays and is named."""

from __future__ import annotations

import conversion
import models
import numpy as np
import onnx
import onnx_ir as ir
import op_cases
import pytest
from onnx import TensorProto, checker, defs, helper

from quantcli import errors, graph, half, metrics, runtime
from quantcli.data import InputSpec, from_arrays
from quantcli.lowering import half_types
from quantcli.modes import resolve
from quantcli.passes.emit_float16 import EmitFloat16
from quantcli.state import State

F16, F32 = np.float16, np.float32
WHOLE = "passes.emit_float16.compute=float16"


def quiet(_done: int, _total: int) -> None:
    """Take no note of the progress."""


def network(**arrays: object) -> models.ModelProto:
    model = models.text(
        """(float[1, 4, 8, 8] x) => (float[1, 10] y) {
             a = Conv<pads = [1, 1, 1, 1]>(x, w, b)  r = Relu(a)  f = Flatten(r)  m = MatMul(f, v)  y = Add(m, c)
           }""",
        w=models.weight(32, 4, 3, 3), b=models.weight(32), v=models.weight(2048, 10), c=models.weight(10), **arrays,
    )  # fmt: skip
    names = ("the conv", "the relu", "the flatten", "the matmul", "the add")
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    return model


def state_of(model: models.ModelProto, *settings: str, feeds: object = None) -> State:
    made = ir.from_proto(model)
    graph.name_everything(made)
    made.graph.sort()
    runtime.annotate(made)
    specs = [InputSpec(n, np.dtype(f.dtype), f.shape) for n, f in models.graph_inputs(model).items()]
    data = from_arrays(models.samples(model, 3) if feeds is None else feeds, specs)
    return State(made, made, resolve("float16", None, settings), data=data)


def emitted(model: models.ModelProto, *settings: str, compute: str = "float32", feeds: object = None) -> State:
    return EmitFloat16(compute=compute)(state_of(model, *settings, feeds=feeds), quiet)


def proto(state: State) -> models.ModelProto:
    return ir.to_proto(state.quantized.model)


def types(model: models.ModelProto) -> dict[str, int]:
    return {t.name: t.data_type for t in model.graph.initializer}


def casts(model: models.ModelProto) -> dict[str, str]:
    """Return, by name of its result, what each Cast to float32 of a constant reads."""
    stored = types(model)
    return {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Cast" and n.input[0] in stored}


def agrees(before: models.ModelProto, after: models.ModelProto, *, decibel: float = 55.0) -> None:
    checker.check_model(after, full_check=True)
    for feed in models.samples(before, 3):
        expected = conversion.run(before, feed)
        for optimize in (True, False):
            found = conversion.run(after, feed, optimize=optimize)
            for name, real in expected.items():
                assert metrics.sqnr_db(real, found[name].astype(real.dtype)) >= decibel


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_weights_become_float16_and_the_result_stays():
    after = proto(emitted(network()))
    assert {"w", "v"} <= set(casts(after))
    agrees(network(), after)


def test_the_cast_keeps_the_name_of_the_user():
    after = proto(emitted(network()))
    assert casts(after)["w"] == "h0"
    assert next(n for n in after.graph.node if n.name == "the conv").input[1] == "w"


def test_the_whole_mode_halves_the_file(bench):
    source = network(big=models.weight(3))
    converted = bench.convert(source, "float16", nearest=False)
    stored = sum(len(t.raw_data) for t in converted.model.graph.initializer)
    assert stored < 0.51 * sum(len(t.raw_data) for t in source.graph.initializer)
    assert any("computed in float32" in n for n in converted.result.report["notes"])


def test_no_cast_is_left_after_loading():
    """Casts of constants are folded: the runtime runs the operators of the float model."""
    state = emitted(network())
    assert runtime.optimized_operators(state.quantized.model) == runtime.optimized_operators(state.model)


def test_a_constant_has_one_cast_for_all_its_readers():
    model = models.text(
        "(float[4, 64] x) => (float[4, 64] y) { a = MatMul(x, w)  b = MatMul(a, w)  y = MatMul(b, w) }",
        w=models.weight(64, 64, spread=0.1),
    )
    after = proto(emitted(model))
    assert [n.op_type for n in after.graph.node] == ["Cast", "MatMul", "MatMul", "MatMul"]


@pytest.mark.parametrize(("size", "kind"), [(17, TensorProto.FLOAT), (18, TensorProto.FLOAT16)])
def test_a_constant_is_halved_only_where_that_saves_bytes(size, kind):
    model = models.text("(float[N] x) => (float[N] y) { y = Mul(x, w) }", w=models.weight(size))
    model.graph.node[0].name = "m"
    after = proto(emitted(model, feeds=[{"x": models.weight(size)}]))
    assert list(types(after).values()) == [kind]
    del after.graph.value_info[:]  # not written either
    assert after.ByteSize() <= model.ByteSize()


def test_small_constants_are_counted_in_a_note():
    model = models.text("(float[4] x) => (float[4] y) { y = Mul(x, w) }", w=models.weight(4))
    state = emitted(model)
    assert "1 small constants stay float32: a Cast would take more bytes than float16 saves" in state.report.notes


def test_linear_weights_keep_the_sum_of_each_output_channel():
    model, w = network(), models.weight(32, 4, 3, 3)
    after = {t.name: onnx.numpy_helper.to_array(t) for t in proto(emitted(model)).graph.initializer}
    error = (after["h0"].astype(np.float64) - w).sum(axis=(1, 2, 3))
    nearest = (w.astype(F16).astype(np.float64) - w).sum(axis=(1, 2, 3))
    assert np.abs(error).mean() < 0.2 * np.abs(nearest).mean()


def test_the_same_model_gives_the_same_bytes():
    first, second = (proto(emitted(network())).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


# ---- what stays ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.full((1, 64), -3.4e38, F32), "beyond float16"),
        (np.full((1, 64), 70000, F32), "beyond float16"),
        (np.full((1, 64), np.inf, F32), "NaN or infinite"),
        (np.full((1, 64), 1e-12, F32), "too small"),
        (np.arange(5000, 5064, dtype=F32)[None], "whole numbers"),
    ],
    ids=["mask", "large", "infinite", "tiny", "whole"],
)
@pytest.mark.parametrize("compute", ["float32", "float16"])
def test_what_float16_cannot_hold_stays_and_is_named(value, reason, compute):
    model = models.text("(float[4, 64] x) => (float[4, 64] y) { s = Mul(x, w)  y = Max(s, c) }",
                        c=value, w=models.weight(4, 64))  # fmt: skip
    state = emitted(model, compute=compute)
    after = proto(state)
    assert types(after)["c"] == TensorProto.FLOAT
    assert any("'c' stays float32" in w and reason in w for w in state.report.warnings)
    entry = next(e for e in state.report.ledger.values() if e.op_type == "Max")
    assert (entry.fate, reason in entry.reason) == ("float", True)


def test_an_epsilon_stays_and_is_named_in_the_ledger():
    model = models.text("(float[4, 64] x) => (float[4, 64] y) { y = Add(x, e) }", e=np.asarray(1e-12, F32))
    (entry,) = emitted(model).report.ledger.values()
    assert "'e' stays float32: its value 1e-12 would become 0" in entry.reason


def test_a_pattern_keeps_the_constants_of_its_nodes(bench):
    converted = bench.convert(network(), "float16", nearest=False, keep_float=("the conv",))
    assert types(converted.model)["w"] == TensorProto.FLOAT
    assert converted.ledger["the conv"].reason.endswith("kept float as asked")
    assert converted.ledger["the matmul"].fate == "stored"
    assert "--float the conv: 1 nodes" in converted.result.report["notes"]


def test_a_constant_that_is_an_output_keeps_its_type():
    model = network()
    model.graph.output.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, (2048, 10)))
    state = emitted(model)
    assert types(proto(state))["v"] == TensorProto.FLOAT
    assert "it is an output of the model" in state.report.ledger["the matmul"].reason


def test_a_constant_that_is_an_output_keeps_its_name_where_float16_reads_it():
    model = network()
    model.graph.output.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, (2048, 10)))
    after = proto(emitted(model, compute="float16"))
    assert [o.name for o in after.graph.output] == ["y", "v"]
    assert types(after)["v"] == TensorProto.FLOAT
    agrees(model, after)


def test_a_constant_that_can_be_fed_keeps_its_type():
    model = network()
    model.graph.input.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, (2048, 10)))
    assert types(proto(emitted(model)))["v"] == TensorProto.FLOAT


def test_every_node_is_in_the_ledger():
    entries = emitted(network()).report.ledger
    assert [(e.node, e.fate) for e in entries.values()] == [
        ("the conv", "stored"), ("the relu", "float"), ("the flatten", "float"), ("the matmul", "stored"),
        ("the add", "float"),
    ]  # fmt: skip
    assert entries["the conv"].kernel == "float16 weights, computed in float32"
    assert entries["the relu"].reason == "it reads no constant"


def test_integers_are_untouched():
    model = models.text("(int64[4] x) => (int64[4] y) { y = Add(x, x) }")
    (entry,) = emitted(model, feeds=[{"x": models.ints(1, 2, 3, 4)}]).report.ledger.values()
    assert entry.fate == "untouched"


def test_an_unknown_type_of_computation_is_refused():
    with pytest.raises(errors.RecipeError, match=r"expected float32 \| float16.*did you mean 'float16'"):
        EmitFloat16(compute="float61")


# ---- bodies ----------------------------------------------------------------------------------------------------------


def looped() -> models.ModelProto:
    """A Loop whose body multiplies with an own initializer, a Constant node, an outer weight, and holds an If."""
    w, u = models.weight(8, 8, spread=0.3), models.weight(8, 8, seed=1, spread=0.3)
    constant = [helper.make_node("Constant", [], [n], value=models.initializer(n, models.weight(8, 8, seed=s)))
                for n, s in (("yes", 2), ("no", 3))]  # fmt: skip
    branches = [
        helper.make_graph([c], c.output[0], [], [helper.make_tensor_value_info(c.output[0], TensorProto.FLOAT, (8, 8))])
        for c in constant
    ]
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "u"], ["t"]),
            helper.make_node("MatMul", ["t", "outer"], ["s"]),
            helper.make_node("If", ["going"], ["chosen"], then_branch=branches[0], else_branch=branches[1]),
            helper.make_node("Add", ["s", "chosen"], ["next"]),
            helper.make_node("Identity", ["going"], ["on"]),
        ],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, ()),
         helper.make_tensor_value_info("going", TensorProto.BOOL, ()),
         helper.make_tensor_value_info("state", TensorProto.FLOAT, (8, 8))],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, ()),
         helper.make_tensor_value_info("next", TensorProto.FLOAT, (8, 8))],
        [models.initializer("u", u)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="before"),
        helper.make_node("Loop", ["times", "go", "r"], ["y0"], body=body, name="the loop"),
        helper.make_node("Relu", ["y0"], ["y"], name="after"),
    ]
    arrays = {"outer": w, "times": np.asarray(3, np.int64), "go": np.asarray(1, np.bool_)}
    model = models.graph(nodes, {"x": models.Fed((8, 8))}, ["y"], arrays)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (8, 8)))
    return model


@pytest.mark.parametrize("compute", ["float32", "float16"])
def test_constants_of_bodies_are_halved_too(compute):
    state = emitted(looped(), compute=compute)
    made = [t for g in graph.all_graphs(state.quantized.model) for t in g.initializers.values()]
    kinds = [t.const_value.dtype for t in made]
    assert kinds.count(ir.DataType.FLOAT16) == 2
    held = [n.attributes["value"].as_tensor().dtype for n in state.quantized.model.graph.all_nodes()
            if n.op_type == "Constant"]  # fmt: skip
    assert held == [ir.DataType.FLOAT16] * 2
    assert state.report.ledger["the loop"].fate == "stored"
    agrees(looped(), proto(state))


def test_a_small_constant_that_a_body_returns_stays():
    model = looped()
    branch = next(n for n in model.graph.node[1].attribute[0].g.node if n.op_type == "If").attribute[0].g
    branch.node[0].attribute[0].t.CopyFrom(models.initializer("yes", models.weight(1, 8)))
    kinds = [n.attributes["value"].as_tensor().dtype for n in emitted(model).quantized.model.graph.all_nodes()
             if n.op_type == "Constant"]  # fmt: skip
    assert sorted(k.name for k in kinds) == ["FLOAT", "FLOAT16"]


def test_no_cast_is_left_in_bodies_after_loading():
    state = emitted(looped())
    assert runtime.optimized_operators(state.quantized.model)["Cast"] == 0


def test_the_loop_itself_computes_in_float32():
    state = emitted(looped(), compute="float16")
    assert state.report.ledger["the loop"].reason == "its bodies compute in float32"
    assert state.report.ledger["before"].kernel == "computed in float16"


# ---- inputs and outputs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compute", ["float32", "float16"])
def test_inputs_and_outputs_may_be_float16(compute):
    after = proto(emitted(network(), "inputs=float16", "outputs=float16", compute=compute))
    edges = [(v.name, v.type.tensor_type.elem_type) for v in (*after.graph.input, *after.graph.output)]
    assert edges == [("x", TensorProto.FLOAT16), ("y", TensorProto.FLOAT16)]
    feed = models.samples(network(), 1)[0]
    found = conversion.run(after, {"x": feed["x"].astype(F16)})["y"]
    assert found.dtype == F16
    assert metrics.sqnr_db(conversion.run(network(), feed)["y"], found) > 50


def test_an_output_that_others_read_leaves_once_and_keeps_its_name():
    model = models.text(
        "(float[4, 64] x) => (float[4, 64] y, float[4, 64] z) { y = Mul(x, w)  z = Relu(y) }", w=models.weight(4, 64)
    )
    for compute in ("float32", "float16"):
        after = proto(emitted(model, "outputs=float16", compute=compute))
        assert [o.name for o in after.graph.output] == ["y", "z"]
        checker.check_model(after, full_check=True)


# ---- all of the graph ------------------------------------------------------------------------------------------------


def test_every_tensor_becomes_float16():
    after = proto(emitted(network(), compute="float16"))
    kinds = conversion.tensor_types(after)
    assert {n: k for n, k in kinds.items() if k == "tensor(float)"} == {"x": "tensor(float)", "y": "tensor(float)"}
    assert [n.op_type for n in after.graph.node].count("Cast") == 2
    agrees(network(), after)


@pytest.mark.parametrize(
    ("source", "arrays"),
    [
        ("(float[2,3] x) => (float[2,3] y) { i = Cast<to = 7>(x) f = Cast<to = 1>(i) y = Add(x, f) }", {}),
        ("(float[2,3] x) => (float[2,3] y) { s = Shape(x) c = ConstantOfShape(s) y = Add(x, c) }", {}),
        ("(float[2] x) => (float[2] y) { s = Shape(x) c = ConstantOfShape<value = float[1] {2.5}>(s) y = Add(x, c) }",
         {}),
        ("(float[2] x) => (float[2] y) { c = RandomUniformLike<low = 1., high = 1.>(x) y = Mul(x, c) }", {}),
        ("(float[1,1,4,4] x) => (float[1,1,8,8] y) { y = Resize<mode = \"nearest\">(x, , s) }", {"s": [1.0, 1, 2, 2]}),
        ("(float[3,4] x) => (float[3,4] y) { y, m, d = LayerNormalization(x, g) }", {"g": models.weight(4)}),
        (
            "(float[3,4] x) => (float[3,4] y, float[3,1] d) { y, m, d = LayerNormalization(x, g) }",
            {"g": models.weight(4)},
        ),
        ("(float[2,3] x) => (float[2,3] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
         {"s": 0.125, "z": np.asarray(3, np.uint8)}),
        ("(float[2,3] x) => (float[2,3] y) { y = Celu(x) }", {}),
        ("(float[2,3] x) => (float[2,3] y) { n = IsInf(x) y = Where(n, x, x) }", {}),
        ("(float[2,3] x) => (float[2,3] y) { a, b = TopK(x, k) y = Relu(a) }", {"k": models.ints(3)}),
        ("(float[2,3] x) => (float[2,3] y) { y = Mod<fmod = 1>(x, c) }", {"c": models.weight(3)}),
        ("(float[2,3] x) => (float[2,3] y) { q = SequenceConstruct(x, x) y = SequenceAt(q, k) }",
         {"k": np.asarray(1, np.int64)}),
        ("(float[5,1,4] x) => (float[5,1,1,3] y, float[1,1,3] h) { y, h = GRU<hidden_size = 3>(x, w, r) }",
         {"w": models.weight(1, 9, 4), "r": models.weight(1, 9, 3)}),
    ],
    ids=["cast", "zeros", "constant of shape", "random", "resize", "layer norm", "layer norm results", "qdq", "celu",
         "isinf", "topk", "mod", "sequence", "gru"],
)  # fmt: skip
@pytest.mark.parametrize("opset", [17, 21])
def test_operators_load_and_agree(source, arrays, opset):
    model = models.text(source, opset=opset, **arrays)
    agrees(model, proto(emitted(model, compute="float16")), decibel=45)


@pytest.mark.parametrize("name", op_cases.CASES)
def test_every_operator_of_the_table_computes_in_float16(name):
    case = op_cases.CASES[name]
    model = case.model()
    feeds = case.feeds(model)[:2]
    after = proto(emitted(model, compute="float16", feeds=feeds))
    for feed in feeds:
        expected = conversion.run(model, feed)
        for optimize in (True, False):
            found = conversion.run(after, feed, optimize=optimize)
            assert {n: a.dtype for n, a in found.items()} == {n: a.dtype for n, a in expected.items()}
            real = [n for n, a in expected.items() if a.dtype == F32]
            assert all(metrics.sqnr_db(expected[n], found[n]) > 55 for n in real)


def test_positions_stay_float32():
    """300 * 0.37 has an error of 0.06 in float16, which its sine would show."""
    model = models.text(
        "(int64[N] p) => (float[N] y) { f = Cast<to = 1>(p)  a = Mul(f, w)  s = Sin(a)  y = Relu(s) }", w=[0.37]
    )
    feeds = [{"p": np.arange(3000, 3020)}]
    state = emitted(model, compute="float16", feeds=feeds)
    assert [e.fate for e in state.report.ledger.values()] == ["float", "float", "float", "stored"]
    expected, found = (conversion.run(m, feeds[0])["y"] for m in (model, proto(state)))
    assert metrics.sqnr_db(expected, found) > 60


def test_tensors_beyond_float16_on_the_samples_stay_float32():
    model = models.text("(float[4] x) => (float[4] y) { a = Mul(x, c)  y = Tanh(a) }", c=np.asarray([1000], F32))
    feeds = [{"x": np.asarray([100, 1, 0, -100], F32)}]
    state = emitted(model, compute="float16", feeds=feeds)
    assert "tensor 'a' goes beyond float16's 65504" in next(iter(state.report.ledger.values())).reason
    np.testing.assert_allclose(conversion.run(proto(state), feeds[0])["y"], [1, 1, 0, -1], atol=1e-3)


def test_a_new_infinity_is_an_error_that_names_the_output():
    model = models.text("(float[2] x) => (float[2] y) { y = Mul(x, c) }", c=np.asarray([1000], F32))
    with pytest.raises(errors.QualityError, match="output 'y' holds 1 values that are NaN or infinite in float16"):
        emitted(model, "outputs=float16", feeds=[{"x": np.asarray([1, 200], F32)}])


def test_an_infinity_of_the_float_model_is_no_error():
    model = models.text("(float[2] x) => (float[2] y) { y = Div(x, x) }")
    emitted(model, compute="float16", feeds=[{"x": np.asarray([1, 0], F32)}])


def test_the_tables_are_those_of_the_schemas():
    """Every operator with a float32 operand or result that cannot be float16 has its row; so says ONNX."""
    missing = []
    for schema in defs.get_all_schemas_with_history():
        if schema.domain or schema.deprecated:
            continue
        for table, parts in (
            (half_types.FLOAT32_OPERANDS, schema.inputs),
            (half_types.FLOAT32_RESULTS, schema.outputs),
        ):
            for index, part in enumerate(parts):
                only_float32 = "tensor(float)" in part.types and "tensor(float16)" not in part.types
                known = schema.since_version < half_types.SINCE.get(schema.name, 0)
                if only_float32 and not known and index not in table.get(schema.name, ()):
                    missing.append((schema.name, schema.since_version, part.name))
    assert missing == []


def test_half_constants_are_those_of_the_module():
    assert np.finfo(F16).max == half.LARGEST


@pytest.mark.parametrize("setting", [WHOLE, "passes.emit_float16.compute=float32"])
def test_a_model_of_an_old_opset_stays_in_it(bench, setting):
    model = models.text("(float[4, 64] x) => (float[4, 64] y) { y = MatMul(x, w) }", opset=9, w=models.weight(64, 64))
    converted = bench.convert(model, "float16", setting, nearest=False)
    assert converted.model.opset_import[0].version == 9
    assert converted.fates() == {"stored"}
