"""What nobody reads goes; what is read, and the float tensors, stay."""

from __future__ import annotations

import models
import numpy as np

NET = "(float[2,4,9,9] x) => (float y) { a = Conv(x, d) b = Relu(a) c = MaxPool<kernel_shape=[2,2]>(b) y = Conv(c, e) }"


def net():
    return models.text(NET, d=models.weight(4, 4, 3, 3), e=models.weight(4, 4, 3, 3, seed=2))


def unread(model):
    read = {i for n in model.graph.node for i in n.input} | {o.name for o in model.graph.output}
    return [o for n in model.graph.node for o in n.output if o not in read]


def test_nothing_unread_is_written(bench):
    assert unread(bench.convert(net(), "16x8").model) == []


def test_pruning_changes_no_result(bench):
    pruned = bench.convert(net(), "16x8")
    kept = bench.convert(net(), "16x8", "passes.prune=off")
    assert unread(kept.model)
    feed = pruned.feeds[0]
    assert np.array_equal(pruned.run(feed)["y"], kept.run(feed)["y"])
