"""Graph text before and after a pass: `golden/<pass>/<law>.txt` holds both, with `---` between them.

Adding a case is adding a file with the first half; `python tests/test_golden.py --accept` writes the second half of
every case, to be read before it is committed. Lines that begin with # are for the reader.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import models
import numpy as np
import onnx_ir as ir
import pytest
from conversion import run
from onnx import checker, parser, printer

from quantcli import graph, modes, plugins
from quantcli.state import State

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(GOLDEN.glob("*/*.txt"))
SEPARATOR = "---\n"


@pytest.mark.parametrize("path", CASES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_the_pass_gives_the_graph_of_the_file(path):
    before, _, after = path.read_text().partition(SEPARATOR)
    assert printed(passed(path, before)) == after


@pytest.mark.parametrize("path", CASES, ids=lambda p: f"{p.parent.name}/{p.stem}")
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
        "convert_opset", "simplify", "fold_batch_norm", "canonicalize"
    }  # fmt: skip


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


def printed(model):
    del model.graph.value_info[:]
    return "\n".join(line.rstrip() for line in printer.to_text(model).strip().splitlines()) + "\n"


def accept():
    for path in CASES:
        before = path.read_text().partition(SEPARATOR)[0]
        path.write_text(f"{before.rstrip()}\n{SEPARATOR}{printed(passed(path, before))}")


if __name__ == "__main__":
    if sys.argv[1:] != ["--accept"]:
        sys.exit("usage: python tests/test_golden.py --accept")
    accept()
