"""Makes a failing case small: cuts what is behind and before the failure, and what nothing needs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import onnx
from conversion import run, with_outputs
from growth import reads
from onnx import helper
from random_models import is_valid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from onnx import ModelProto
    from random_models import Case

MOST_TRIES = 100


def reduced(case: Case, fails: Callable[[Case], bool]) -> Case:
    """Return the smallest case found that is valid and still fails."""
    tries, going = 0, True
    while going and tries < MOST_TRIES:
        going = False
        for smaller in _smaller(case):
            tries += 1
            if is_valid(smaller.model, smaller.feeds) and fails(smaller):
                case, going = smaller, True
                break
            if tries >= MOST_TRIES:
                break
    return case


def _smaller(case: Case) -> Iterator[Case]:
    """Yield cases with one cut more, the boldest first."""
    outputs = [o.name for o in case.model.graph.output]
    computed = [o for n in case.model.graph.node for o in n.output if o]
    for name in computed:  # what was made first needs the least before it
        if outputs != [name]:
            yield from _with_output(case, name)
    if len(outputs) > 1:
        for name in outputs:
            yield _pruned(case, with_outputs(case.model, [o for o in outputs if o != name]))
    for node in reversed(case.model.graph.node):
        yield from _fed_instead(case, node)
    if len(case.feeds) > 1:
        yield replace(case, feeds=case.feeds[:1])


def _with_output(case: Case, name: str) -> Iterator[Case]:
    try:
        made = run(case.model, case.feeds[0], outputs=[name], optimize=False)[name]
    except Exception:  # noqa: BLE001 - then this is no output to have
        return
    model = with_outputs(case.model, [name])
    kind = helper.np_dtype_to_tensor_dtype(made.dtype)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(name, kind, [None] * made.ndim))
    yield _pruned(case, model)


def _fed_instead(case: Case, node: onnx.NodeProto) -> Iterator[Case]:
    """Yield the case with the results of a node as inputs."""
    results = [o for o in node.output if o]
    if any(o.name in results for o in case.model.graph.output) or not node.input:
        return
    try:
        made = [run(case.model, f, outputs=results, optimize=False) for f in case.feeds]
    except Exception:  # noqa: BLE001 - then these are no inputs to have
        return
    model = _copy(case.model)
    model.graph.node.remove(node)
    for name in results:
        model.graph.input.append(_fed_info(name, [m[name] for m in made]))
    feeds = [{**f, **m} for f, m in zip(case.feeds, made, strict=True)]
    yield _pruned(replace(case, feeds=feeds), model)


def _fed_info(name: str, arrays: list[np.ndarray]) -> onnx.ValueInfoProto:
    shapes = list(zip(*(a.shape for a in arrays), strict=True))
    dims = [s[0] if len(set(s)) == 1 else None for s in shapes]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(arrays[0].dtype), dims)


def _pruned(case: Case, model: ModelProto) -> Case:
    """Return the case of a model without what its outputs do not need."""
    model = _copy(model)
    needed, kept = {o.name for o in model.graph.output}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(reads(node))
    nodes = [*reversed(kept)]
    for field, found in (
        ("node", nodes),
        ("input", [i for i in model.graph.input if i.name in needed]),
        ("initializer", [t for t in model.graph.initializer if t.name in needed]),
    ):
        copies = [type(x).FromString(x.SerializeToString()) for x in found]
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(copies)
    model.graph.ClearField("value_info")
    fed = {i.name for i in model.graph.input}
    return replace(case, model=model, feeds=[{n: x for n, x in f.items() if n in fed} for f in case.feeds])


def _copy(model: ModelProto) -> ModelProto:
    return onnx.ModelProto.FromString(model.SerializeToString())
