"""Graph text before and after: `golden/<pass>/<law>.txt` of one pass, `golden/modes/<mode>/<law>.txt` of a whole mode.

The parts of a file have `---` between them: the user's graph, and what becomes of it; of a mode, the prepared float
graph and then the graph that is written. Adding a case is adding a file with the first part; `python
tests/test_golden.py --accept` writes the others, to be read before they are committed. Lines that begin with # are for
the reader, but for `# settings:`, which the mode is given.

Of a mode, a constant without contents takes a pattern of sixteenths, and constants are shown without their contents
unless these are small and exact; so are the numbers in names. What is left does not depend on the machine.
"""

from __future__ import annotations

import functools
import re
import string
import sys
import tempfile
from pathlib import Path

import models
import numpy as np
import onnx_ir as ir
import pytest
from conversion import Bench, run
from onnx import AttributeProto, TensorProto, checker, helper, numpy_helper, parser, printer

from quantcli import graph, metrics, modes, plugins
from quantcli.state import State

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(GOLDEN.glob("*/*.txt"))
MODE_CASES = sorted(GOLDEN.glob("modes/*/*.txt"))
SEPARATOR = "---\n"
SHOWN = 8  # values of a constant
WIDTH = 118
LEAST_DB = {  # of weights in sixteenths; samples in eighths
    "none": 100, "float16": 60, "dynamic-range": 25, "weight-only-int8": 35, "weight-only-int4": 15,
    "full-integer": 25, "int8-only": 20, "16x8": 35,
}  # fmt: skip

each_case = pytest.mark.parametrize("path", CASES, ids=lambda p: f"{p.parent.name}/{p.stem}")
each_mode_case = pytest.mark.parametrize("path", MODE_CASES, ids=lambda p: f"{p.parent.name}/{p.stem}")


# ---- one pass --------------------------------------------------------------------------------------------------------


@each_case
def test_the_pass_gives_the_graph_of_the_file(path):
    before, _, after = path.read_text().partition(SEPARATOR)
    assert printed(passed(path, before)) == after


@each_case
def test_the_pass_keeps_the_function(path):
    before = parsed(path.read_text().partition(SEPARATOR)[0])
    after = passed(path, path.read_text().partition(SEPARATOR)[0])
    checker.check_model(after, full_check=True)
    for feed in models.samples(before, 3):
        expected, found = run(before, feed), run(after, feed)
        assert list(found) == list(expected)
        for name, real in expected.items():
            np.testing.assert_allclose(found[name], real, rtol=1e-5, atol=1e-6, strict=True)


def test_every_pass_before_the_plan_has_cases():
    names = [step.name for step in modes.resolve("full-integer").passes]
    preparing = set(names[: names.index("check_parity")])
    assert {p.parent.name for p in CASES} >= preparing & {
        "convert_opset", "simplify", "fold_batch_norm", "canonicalize", "recognize"
    }  # fmt: skip


# ---- a whole mode ----------------------------------------------------------------------------------------------------


@each_mode_case
def test_the_mode_writes_the_graph_of_the_file(path):
    _, prepared, written = path.read_text().split(SEPARATOR)
    made = converted(path)
    assert abbreviated(made.prepared) == prepared
    assert abbreviated(made.model) == written


@each_mode_case
def test_the_mode_keeps_the_function(path):
    made = converted(path)
    for feed in made.feeds[:2]:
        for name, real in run(made.float_model, feed).items():
            for optimize in (False, True):
                found = made.run(feed, optimize=optimize)[name]
                assert found.shape == real.shape
                assert metrics.sqnr_db(real, found) >= LEAST_DB[path.parent.name]


def test_every_mode_has_cases():
    assert {p.parent.name for p in MODE_CASES} == set(modes.names()) == LEAST_DB.keys()


# ---- how -------------------------------------------------------------------------------------------------------------


def parsed(text):
    return parser.parse_model(re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))


def passed(path, before):
    """Run the pass that the folder is named after, with the options of the mode full-integer, on a graph's text."""
    recipe = modes.resolve("full-integer")
    (step,) = [p for p in plugins.passes_of(recipe) if p.name == path.parent.name]
    model = ir.from_proto(parsed(before))
    graph.name_everything(model)
    return ir.to_proto(step.run(State(model, model, recipe), unwatched).model)


def unwatched(done, total):
    """Take no note of the progress."""


@functools.cache
def converted(path):
    """Convert the graph of a file in the mode that its folder is named after."""
    text = path.read_text().partition(SEPARATOR)[0]
    settings = [s for line in re.findall(r"^# settings: (.*)$", text, re.MULTILINE) for s in line.split()]
    model = parsed(text)
    for part in graphs_of(model.graph):
        fill(part)
    feeds = [
        {n: np.rint(x * 8).astype(np.float32) / 8 if x.dtype == np.float32 else x for n, x in feed.items()}
        for feed in models.samples(model, 6, N=3)
    ]
    with tempfile.TemporaryDirectory() as folder:
        return Bench(Path(folder)).convert(model, path.parent.name, *settings, feeds=feeds)


def fill(part):
    """Give the constants of a graph that have only a shape, which nobody computes, the pattern."""
    made = {o for n in part.node for o in n.output} | {v.name for v in part.input}
    for value in [v for v in part.value_info if v.name not in made]:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        pattern = (np.arange(np.prod(shape)) * 7 % 31 - 15).reshape(shape) / 16
        part.initializer.append(numpy_helper.from_array(pattern.astype(np.float32), value.name))
    del part.value_info[:]


def graphs_of(part):
    """Return a graph and those in its nodes."""
    bodies = [a.g for n in part.node for a in n.attribute if a.type == AttributeProto.GRAPH]
    return [part, *(inner for body in bodies for inner in graphs_of(body))]


def printed(model):
    del model.graph.value_info[:]
    return "\n".join(line.rstrip() for line in printer.to_text(model).strip().splitlines()) + "\n"


def abbreviated(model):
    """Return the text of a model without what depends on the machine, without metadata, in lines of limited width."""
    short = type(model)()
    short.CopyFrom(model)
    for field in ("metadata_props", "producer_name", "producer_version"):
        short.ClearField(field)
    for part in graphs_of(short.graph):
        shapes = [
            helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in part.initializer if not is_shown(t)
        ]
        shown = [t for t in part.initializer if is_shown(t)]
        for field, kept in ((part.initializer, shown), (part.value_info, shapes)):
            del field[:]
            field.extend(kept)
    lines = printer.to_text(short).strip().splitlines()
    return "\n".join(folded(line.rstrip()) for line in without_numbers(lines)) + "\n"


def is_shown(tensor):
    """Tell whether the contents of a constant are few and exact: integers, or reals that float16 holds."""
    if tensor.data_type in (TensorProto.INT4, TensorProto.UINT4) or np.prod(tensor.dims) > SHOWN:
        return False
    array = numpy_helper.to_array(tensor)
    if array.dtype.kind == "f":
        return bool(np.all(array == np.clip(array, -2048, 2048).astype(np.float16)))
    return array.dtype in (np.int64, np.bool_) or not tensor.dims


def without_numbers(lines):
    """Replace the numbers in names, such as scale_0.0123, by letters in the order in which they come."""
    seen = {}

    def counted(match):
        known = seen.setdefault(match[1], [])
        if match[2] not in known:
            known.append(match[2])
        return match[1] + string.ascii_uppercase[known.index(match[2])]

    return [re.sub(r"\b([A-Za-z]\w*_)(\d+\.\d+(?:e[+-]?\d+)?|\d+e[+-]?\d+)", counted, line) for line in lines]


def folded(line):
    """Break a list of constants into lines."""
    if len(line) <= WIDTH or not line.lstrip().startswith("<"):
        return line
    found, current = [], ""
    for item in re.split(r"(?<=, )(?=\w+(?:\[[\d,]*\])? \S)", line):
        if current and len(current) + len(item.rstrip()) > WIDTH:
            found.append(current.rstrip())
            current = "    "
        current += item
    return "\n".join([*found, current])


def accept():
    for path in CASES:
        before = path.read_text().partition(SEPARATOR)[0]
        path.write_text(f"{before.rstrip()}\n{SEPARATOR}{printed(passed(path, before))}")
    for path in MODE_CASES:
        before, made = path.read_text().partition(SEPARATOR)[0], converted(path)
        parts = [f"{before.rstrip()}\n", abbreviated(made.prepared), abbreviated(made.model)]
        path.write_text(SEPARATOR.join(parts))


if __name__ == "__main__":
    if sys.argv[1:] != ["--accept"]:
        sys.exit("usage: python tests/test_golden.py --accept")
    accept()
