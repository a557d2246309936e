"""Turn by turn, a body is fed with what the operator feeds it."""

from __future__ import annotations

from contextlib import contextmanager

import flow
import models
import numpy as np
import onnx_ir as ir
import pytest
from conversion import run

from quantcli import bodies, body_runs, graph, runtime
from quantcli.data import InputSpec, from_arrays


@contextmanager
def reached(model, feeds):
    """What each body of the operator ``flow`` is fed with."""
    made = ir.from_proto(model)
    graph.name_everything(made)
    runtime.annotate(made)
    node = next(n for n in made.graph if n.name == "flow")
    inside = {b.attribute: (b, bodies.as_model(b, made)) for b in bodies.bodies_of(node)}
    specs = [InputSpec(n, np.dtype(x.dtype), x.shape) for n, x in feeds[0].items()]
    data = from_arrays(feeds, specs)
    with body_runs.samples(made, inside, data, 1) as found:
        yield found, inside, list(data)


def test_a_branch_sees_the_samples_that_take_it():
    model = flow.branches()
    feeds = flow.both_ways(model)
    with reached(model, feeds) as (found, _, fed):
        for attribute, taken in (("then_branch", True), ("else_branch", False)):
            expected = [feed for feed in fed if bool(feed["c"]) is taken]
            seen = [feed["x"] for feed in found[attribute]]
            assert len(found[attribute]) == len(expected)
            for one, other in zip(seen, expected, strict=True):
                np.testing.assert_array_equal(one, other["x"])


def test_a_branch_that_is_not_taken_has_no_samples():
    model = flow.branches()
    feeds = [{**feed, "c": np.asarray(0, np.bool_)} for feed in models.samples(model, count=2)]
    with reached(model, feeds) as (found, _, _):
        assert found["then_branch"] is None
        assert len(found["else_branch"]) == 2


@pytest.mark.parametrize("make", [flow.loop, flow.scan, lambda: flow.scan(backwards=1)], ids=["loop", "scan", "back"])
def test_turns_carry_the_state_on(make):
    """The body, run on the feeds that were written down, gives what the operator collects."""
    model = make()
    feeds = models.samples(model, count=2)
    with reached(model, feeds) as (found, inside, fed):
        session = runtime.load(inside["body"][1])
        seen = [session.run(feed)["seen"] for feed in found["body"]]
        collected = [run(model, feed)["all"] for feed in fed]
        np.testing.assert_allclose(np.stack(seen), np.concatenate(collected), atol=1e-5)


def test_a_loop_may_stop_by_itself():
    model = flow.loop(turns=9)
    body = model.graph.node[0].attribute[0].g
    body.initializer.append(models.initializer("last", np.asarray(2, np.int64)))
    stop = next(n for n in body.node if list(n.output) == ["on"])
    stop.op_type, stop.input[:] = "Less", ["i", "last"]
    with reached(model, models.samples(model, count=1)) as (found, _, _):
        assert len(found["body"]) == 3


def test_turns_are_read_as_often_as_needed():
    model = flow.loop()
    with reached(model, models.samples(model, count=2)) as (found, _, _):
        once, again = ([feed["v"].copy() for feed in found["body"]] for _ in range(2))
        assert len(once) == 6
        for one, other in zip(once, again, strict=True):
            np.testing.assert_array_equal(one, other)
        assert len(found["body"].take(2)) == 2
        assert found["body"].digest() == found["body"].digest()
