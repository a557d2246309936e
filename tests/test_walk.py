"""A walk computes part by part what the whole model computes at once, and keeps no more than it must."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import onnx_ir as ir
import pytest
from models import ints, text, weight

from quantcli import graph, runtime, submodel, walk
from quantcli.spool import Spool, spool_all
from quantcli.walk import Walk

RESIDUAL = """(float[n,4] x, float[n,4] mask) => (float[n,4] y) {
  a = MatMul(x, w)
  b = Relu(a)
  c = MatMul(b, v)
  d = Add(c, b)
  e = Mul(d, mask)
  f = MatMul(e, w)
  y = Softmax(f)
  unused = Exp(a)
}"""
QUANTIZED = """(float[n,4] x) => (float[n,4] y) {
  q = QuantizeLinear(x, s, z)
  xq = DequantizeLinear(q, s, z)
  wq = DequantizeLinear(w, s, zero)
  a = MatMul(xq, wq)
  r = QuantizeLinear(a, s, z)
  ar = DequantizeLinear(r, s, z)
  b = MatMul(ar, wq)
  c = Add(b, xq)
  y = MatMul(c, wq)
}"""
GRID = {"s": np.float32(0.05), "z": np.uint8(128), "zero": np.int8(0)}


def residual():
    model = ir.from_proto(text(RESIDUAL, w=weight(4, 4), v=weight(4, 4, seed=1)))
    graph.name_everything(model)
    return model, ["a", "c", "f"]


def quantized():
    weights = np.random.default_rng(0).integers(-10, 10, (4, 4)).astype(np.int8)
    model = ir.from_proto(text(QUANTIZED, w=weights, **GRID))
    graph.name_everything(model)
    return model, ["a", "b", "y"]


both_models = pytest.mark.parametrize("build", [residual, quantized], ids=["residual", "quantized"])


def feeds(count=3):
    """Return samples of different sizes."""
    return [{"x": weight(n, 4, seed=n), "mask": weight(n, 4, seed=9 + n)} for n in range(1, count + 1)]


def walked(model, cuts, samples=None):
    """Walk to the end and return the tensors of the cuts, sample by sample."""
    found = {}
    with closing(Walk(model, [[c] for c in cuts], samples or feeds(), threads=1)) as made:
        for index, cut in enumerate(cuts):
            results = spool_all(made.part(index).run(also=[cut]))
            found[cut] = list(results[cut])
            made.finish(index, results)
    return found


def at_once(model, cuts, samples=None):
    session = runtime.load(model, outputs=cuts)
    results = [session.run(feed) for feed in samples or feeds()]
    return {cut: [r[cut] for r in results] for cut in cuts}


def alike(found, expected):
    return all(np.allclose(a, b, atol=1e-6) for cut in expected for a, b in zip(found[cut], expected[cut], strict=True))


# ---- results ---------------------------------------------------------------------------------------------------------


@both_models
def test_parts_compute_what_the_whole_model_does(build):
    model, cuts = build()
    assert alike(walked(model, cuts), at_once(model, cuts))


@pytest.mark.parametrize("cuts", [["f"], ["a", "f"], ["b", "d"], ["c", "e", "y"]], ids=" ".join)
def test_cuts_may_lie_anywhere(cuts):
    model, _ = residual()
    assert alike(walked(model, cuts), at_once(model, cuts))


def test_a_part_yields_what_later_parts_read():
    model, cuts = residual()
    with closing(Walk(model, [[c] for c in cuts], feeds(), threads=1)) as made:
        made.finish(0, spool_all(made.part(0).run()))
        assert [set(r) for r in made.part(1).run()] == [{"b", "c"}] * 3


def test_a_part_yields_only_what_is_asked_for():
    model, cuts = residual()
    with closing(Walk(model, [[c] for c in cuts], feeds(), threads=1)) as made:
        assert [set(r) for r in made.part(0).run(also=["a"], only=True)] == [{"a"}] * 3


def test_a_part_may_yield_what_it_was_fed():
    model, cuts = residual()
    with closing(Walk(model, [[c] for c in cuts], feeds(), threads=1)) as made:
        found = list(made.part(0).run(also=["x"], only=True))
    assert [r["x"].tolist() for r in found] == [f["x"].tolist() for f in feeds()]


def test_a_part_of_which_nothing_is_asked_yields_nothing():
    model, cuts = residual()
    with closing(Walk(model, [[c] for c in cuts], feeds(), threads=1)) as made:
        assert list(made.part(0).run(only=True)) == []


def test_a_part_can_be_run_again():
    model, cuts = residual()
    with closing(Walk(model, [[c] for c in cuts], feeds(), threads=1)) as made:
        first, second = (list(made.part(0).run(also=["a"])) for _ in range(2))
    assert all(np.array_equal(a["a"], b["a"]) for a, b in zip(first, second, strict=True))


def test_constants_are_replaced_for_one_run():
    model, cuts = residual()
    with closing(Walk(model, [[c] for c in cuts], feeds(1), threads=1)) as made:
        (changed,) = made.part(0).run(constants={"w": np.zeros((4, 4), np.float32)}, also=["a"])
        (again,) = made.part(0).run(also=["a"])
    assert not changed["a"].any()
    assert again["a"].any()


def test_constants_that_a_part_does_not_read_change_nothing():
    model, cuts = residual()
    with closing(Walk(model, [[c] for c in cuts], feeds(1), threads=1)) as made:
        (found,) = made.part(0).run(constants={"v": np.zeros((4, 4), np.float32)}, also=["a"])
    assert np.array_equal(found["a"], at_once(model, ["a"], feeds(1))["a"][0])


def test_what_was_changed_is_what_later_parts_see():
    model, cuts = residual()
    with closing(Walk(model, [[c] for c in cuts], feeds(1), threads=1)) as made:
        graph.set_initializer(model.graph.initializers["w"], -weight(4, 4))
        made.finish(0, spool_all(made.part(0).run()))
        (found,) = made.part(1).run(also=["c"])
    assert np.allclose(found["c"], at_once(model, ["c"], feeds(1))["c"][0])


def test_integer_inputs_are_walked_with():
    model = ir.from_proto(text("(int64[n] i) => (float[n,4] y) { a = Gather(w, i) y = MatMul(a, w) }", w=weight(4, 4)))
    samples = [{"i": ints(0, 3)}, {"i": ints(1)}]
    assert alike(walked(model, ["a", "y"], samples), at_once(model, ["a", "y"], samples))


def test_a_subgraph_may_read_what_an_earlier_part_made():
    model = ir.from_proto(text("""(float[n,4] x, bool c) => (float[n,4] y) {
      a = MatMul(x, w)
      b = If (c) <
        then_branch = t () => (float[n,4] p) { p = Add(a, k) },
        else_branch = e () => (float[n,4] q) { q = Neg(a) }
      >
      y = MatMul(b, w)
    }""", w=weight(4, 4), k=weight(4)))  # fmt: skip
    samples = [{"x": weight(2, 4), "c": np.array(c)} for c in (True, False)]
    assert alike(walked(model, ["a", "y"], samples), at_once(model, ["a", "y"], samples))


def test_a_part_that_reads_no_input_is_run_for_every_sample():
    source = "(float[n,4] x) => (float[n,4] y) { r = EyeLike(k) a = MatMul(r, w) b = MatMul(x, w) y = MatMul(b, a) }"
    model = ir.from_proto(text(source, k=weight(4, 4), w=weight(4, 4)))
    assert alike(walked(model, ["a", "y"]), at_once(model, ["a", "y"]))


# ---- parts -----------------------------------------------------------------------------------------------------------


@both_models
def test_every_needed_node_is_in_one_part(build):
    model, cuts = build()
    parts = [n for part in walk._parts(model, cuts) for n in part if n.op_type != "DequantizeLinear"]
    needed = [n for n in submodel.with_outputs(model, cuts).graph if n.op_type != "DequantizeLinear"]
    assert [n.name for n in parts] == [n.name for n in needed]


@both_models
def test_a_part_is_in_topological_order(build):
    model, cuts = build()
    order = {node: i for i, node in enumerate(model.graph)}
    assert all([order[n] for n in part] == sorted(order[n] for n in part) for part in walk._parts(model, cuts))


def test_nodes_that_no_cut_needs_are_in_no_part():
    model, cuts = residual()
    found = {n.op_type for part in walk._parts(model, cuts) for n in part}
    assert found.isdisjoint({"Exp", "Softmax"})


def test_a_cut_ends_its_part():
    model, cuts = residual()
    assert [graph.name_of(part[-1].outputs[0]) for part in walk._parts(model, cuts)] == cuts


def test_there_is_one_part_for_each_cut():
    model, cuts = residual()
    with closing(Walk(model, [[c] for c in cuts], feeds(), threads=1)) as made:
        assert len(made) == 3


def test_dequantized_tensors_are_computed_wherever_they_are_read():
    model, cuts = quantized()
    parts = [[n.outputs[0].name for n in part if n.op_type == "DequantizeLinear"] for part in walk._parts(model, cuts)]
    assert parts == [["xq", "wq"], ["wq", "ar"], ["xq", "wq"]]


def test_integers_are_kept_in_place_of_what_is_dequantized():
    model, cuts = quantized()
    with closing(Walk(model, [[c] for c in cuts], feeds(1), threads=1)) as made:
        (kept,) = made.part(0).run()
    assert {n: a.dtype for n, a in kept.items()} == {"q": np.uint8, "a": np.float32}


# ---- space -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def spools(monkeypatch):
    """Every spool that a walk makes; closed ones say so."""
    made = []

    class Watched(Spool):
        def __init__(self):
            super().__init__()
            made.append(self)

        @property
        def is_open(self):
            return not self._file.closed

    monkeypatch.setattr(walk, "Spool", Watched)
    monkeypatch.setattr("quantcli.spool.Spool", Watched)
    return made


@both_models
def test_everything_is_released_at_the_end(spools, build):
    walked(*build())
    assert not any(s.is_open for s in spools)


def test_nothing_is_left_after_the_last_part(spools):
    model, cuts = residual()
    made = Walk(model, [[c] for c in cuts], feeds(), threads=1)
    for index in range(len(made)):
        made.finish(index, spool_all(made.part(index).run()))
    assert not any(s.is_open for s in spools)


def test_what_nobody_reads_any_more_is_released(spools):
    model, cuts = residual()
    with closing(Walk(model, [[c] for c in cuts], feeds(), threads=1)) as made:
        made.finish(0, spool_all(made.part(0).run()))
        assert set(made._live) == {"mask", "a"}
        made.finish(1, spool_all(made.part(1).run()))
        assert set(made._live) == {"mask", "b", "c"}


def test_results_that_no_later_part_reads_are_released(spools):
    model, cuts = residual()
    with closing(Walk(model, [[c] for c in cuts], feeds(), threads=1)) as made:
        made.finish(0, spool_all(made.part(0).run(also=["a", "x"])))
        assert len([s for s in spools if s.is_open]) == len(made._live)


def test_a_walk_that_is_given_up_releases_everything(spools):
    model, cuts = residual()
    made = Walk(model, [[c] for c in cuts], feeds(), threads=1)
    made.finish(0, spool_all(made.part(0).run()))
    made.close()
    assert not any(s.is_open for s in spools)
