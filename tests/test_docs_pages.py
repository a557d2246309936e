"""The pages say what the code does. ``python tests/test_docs_pages.py --write`` writes the generated ones anew."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from quantcli import cli, modes, plugins, recipe, recipe_reader
from quantcli.cli import boundary
from quantcli.data import InputSpec, is_signatures, open_dataset, read_signatures, spec
from quantcli.kernels import KERNELS, NO_KERNEL, POINTWISE, Cell
from quantcli.oprules import OP_RULES, POINTWISE_WITH_CONSTANT, OpRule, Role

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
AGAIN = "run: python tests/test_docs_pages.py --write"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
QUICK = ["--samples", "4", "--threads", "1"]  # what is tested is that the command is right, not its accuracy
ELSEWHERE = (
    "make ",
    "pip ",
    "python -m pip",
    "python benchmarks/",
)  # lines of the README that need a checkout or a network

ROLES = {
    Role.LINEAR: "activation times constant weight: int8 weight, int32 bias of scale input x weight",
    Role.PRODUCT: "product of two activations",
    Role.ELEMENTWISE: "each operand and the result have a scale of their own; constants are quantized as activations",
    Role.JOIN: "several operands on the scale of the result, where their producers allow it",
    Role.SAME: "moves or selects: the result has the scale of the operand",
    Role.REDUCE: "mean or sum: the result has a scale of its own",
    Role.FIXED: "the range of the result is known beforehand",
    Role.POINTWISE: "function of one variable; neighbours form one function",
    Role.SOURCE: "8-bit integers of the model's own become real numbers: scale 1 holds them exactly",
    Role.OPAQUE: "reads values or shapes; the result is no quantized tensor",
}

OP_TABLE_HEAD = """# Operators

Written by `python tests/test_docs_pages.py --write` from the op table and the kernel table; do not edit.

*What an operator needs* says how its scales are chosen. The columns *qdq* and *integer* say what becomes of it in each
output format of 8 bits: computed in **integers**, or in float for the reason given, measured on x86 with onnxruntime's
CPU provider. A node may stay float although its operator has an integer form (a computed weight, a tensor that is not
float32, nothing next to it that is integer): `quant convert --dry-run` lists every such node with its reason.
In the mode `int8-only`, which uses the format *integer*, an operator that stays float is a refusal; the last column is
that of `16x8`, which refuses likewise unless asked for `--fallback float`.

Operators of other domains stay float; bodies of If, Loop and Scan are converted by the same table.
"""

MODES_BEGIN, MODES_END = "<!-- modes: written from the recipes -->\n", "<!-- /modes -->"
MODES_HEAD = """# Modes

Written by `python tests/test_docs_pages.py --write` from the recipes that ship with the tool; do not edit.

A mode is a [recipe](recipes.md). `quant modes` lists them, `quant modes show NAME` prints one in full.
"""


def op_table() -> str:
    """Return the text of docs/op-table.md."""
    rows = [_op_row(op, rule) for op, rule in OP_RULES.items()]
    head = "| operator | what it needs | bounds, result | qdq | integer | 16x8 |\n|---|---|---|---|---|---|"
    roles = [f"- **{role.value}**: {meaning}" for role, meaning in ROLES.items()]
    constant = ", ".join(f"`{op}`" for op in sorted(POINTWISE_WITH_CONSTANT))
    return "\n".join([
        OP_TABLE_HEAD,
        "## Roles\n", *roles, "",
        "## Table\n", head, *rows, "",
        f"Every operator that is not listed: {_cell(NO_KERNEL.qdq)}.\n",
        f"{constant} with a constant, or with one tensor twice, count as *pointwise*: a chain of pointwise operators",
        "becomes one table of 256 entries in the format *integer*. An activation right behind a linear operator",
        "or an addition (Relu, Clip) costs nothing in either format: the range of the result says it.",
        "",
    ])  # fmt: skip


def _op_row(op: str, rule: OpRule) -> str:
    kernel = KERNELS.get(op, POINTWISE if rule.role is Role.POINTWISE else NO_KERNEL)
    facts = []
    if rule.bounds is not None:
        facts.append(
            "lets through " + " to ".join(f"{b:g}" for b in rule.bounds)
            if rule.bounds[0] > -1e9
            else "lets its own range through"
        )
    if rule.fixed is not None:
        facts.append(f"scale 1/{1 / rule.fixed[0]:g}, zero point {rule.fixed[1]}")
    if rule.fixed16 is not None:
        facts.append(f"in 16 bits scale 1/{1 / rule.fixed16:g}, zero point 0")
    cells = " | ".join(_cell(c) for c in (kernel.qdq, kernel.integer, kernel.wide))
    return f"| {op} | {rule.role.value} | {'; '.join(facts)} | {cells} |"


def _cell(cell: Cell) -> str:
    if not cell.integer:
        return f"float: {cell.reason}"
    return f"**integer** next to a convolution; else float: {cell.reason}" if cell.near_linear_only else "**integer**"


def modes_table() -> str:
    """Return the table of the README: what each mode needs, stores, computes and promises."""
    rows = [
        f"| `{r.name}` | {'needed' if r.needs_data else '-'} | {r.about.stores} | {r.about.computes} | "
        f"{', '.join(r.io_types)} | {r.about.size} | {r.about.speed} |"
        for r in (modes.resolve(name) for name in modes.names())
    ]
    head = "| mode | data | stores | computes | inputs, outputs | size | speed |\n|---|---|---|---|---|---|---|"
    return "\n".join([head, *rows, ""])


def modes_page() -> str:
    """Return the text of docs/modes.md."""
    known = [modes.resolve(name) for name in modes.names()]
    rows = [
        f"| [`{r.name}`](#{r.name}) | {r.summary} | {'needed' if r.needs_data else 'not needed'} | {r.format} | "
        f"{r.inputs} | {r.outputs} | {r.fallback} |"
        for r in known
    ]
    head = "| mode | what it makes | data | format | inputs | outputs | else |\n|---|---|---|---|---|---|---|"
    recipes = [f"## {r.name}\n\n```yaml\n{r.dump()}```\n" for r in known]
    return "\n".join([MODES_HEAD, head, *rows, "", *recipes])


GENERATED = {"op-table.md": op_table, "modes.md": modes_page}


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_page_is_what_the_code_says(name):
    assert (DOCS / name).read_text("utf-8") == GENERATED[name](), AGAIN


def test_the_mode_table_of_the_readme_is_what_the_recipes_say():
    text = (ROOT / "README.md").read_text("utf-8")
    assert text.partition(MODES_BEGIN)[2].partition(MODES_END)[0] == modes_table(), AGAIN


def test_every_mode_says_what_it_promises():
    for name in modes.names():
        about = modes.resolve(name).about
        assert all((about.stores, about.computes, about.size, about.speed)), name


def test_every_role_is_explained():
    assert set(ROLES) == set(Role)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8"))
    assert [k for k in links if "://" not in k and not (page.parent / k).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_anchor_is_a_heading(page):
    text = page.read_text("utf-8")
    headings = {
        re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= headings


def test_the_recipe_page_names_every_pass_and_calibrator():
    text = (DOCS / "recipes.md").read_text("utf-8")
    assert [n for n in (*plugins.PASSES, *plugins.CALIBRATORS) if f"`{n}`" not in text] == []


def test_the_recipe_page_names_every_key():
    text = (DOCS / "recipes.md").read_text("utf-8")
    keys = [*recipe.to_mapping(recipe.Recipe("")), *recipe.TensorScheme.__slots__]
    assert [k for k in keys if f"`{k}`" not in text] == []


def test_every_recipe_on_a_page_parses():
    blocks = [b for b in _blocks(DOCS / "recipes.md", "yaml") if "passes" in b or "extends" in b]
    parsed = [recipe_reader.parse(b, where="recipes.md", base=modes.mappings()) for b in blocks]
    assert [p.name for p in parsed if not plugins.passes_of(p)] == []
    assert parsed


def test_the_dataset_page_names_every_key():
    text = (DOCS / "dataset.md").read_text("utf-8")
    known = {*spec._TOP_KEYS, *spec._SOURCE_KEYS}
    assert [k for k in sorted(known) if f"`{k}`" not in text] == []


def test_every_dataset_spec_on_a_page_parses(tmp_path):
    blocks = [b for p in (DOCS / "dataset.md", ROOT / "README.md") for b in _blocks(p, "yaml")]
    file = tmp_path / "dataset.yaml"
    for block in blocks:
        file.write_text(block, "utf-8")
        assert read_signatures(file) if is_signatures(file) else spec.read_spec(file), block
    assert blocks


def test_the_dataset_page_feeds_what_it_says(tmp_path):
    np = pytest.importorskip("numpy")
    np.savez(tmp_path / "calibration.npz", x=np.full((3, 4, 4, 3), 255, np.uint8))
    block = next(b for b in _blocks(DOCS / "dataset.md", "yaml") if "npz: calibration.npz" in b)
    (tmp_path / "dataset.yaml").write_text(block, "utf-8")
    name = next(iter(yaml.safe_load(block)["inputs"]))
    taken = InputSpec(name, np.dtype(np.float32), (1, 3, 4, 4))
    (first, *_) = open_dataset(tmp_path / "dataset.yaml", [taken])
    assert first[name].shape == (1, 3, 4, 4)
    assert first[name].max() == pytest.approx((1 - 0.406) / 0.225, rel=1e-5)


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def _commands() -> list[str]:
    lines = [line for block in _blocks(ROOT / "README.md", "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [line.partition(" #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def _quant_commands() -> list[str]:
    return [c for c in _commands() if not c.startswith(ELSEWHERE)]


def test_every_command_of_the_readme_is_quant_or_known_to_need_more():
    assert [c for c in _quant_commands() if shlex.split(c)[0] != "quant"] == []


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    """The bundled sample under the names that the README uses for the reader's own files."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "model.onnx").write_bytes((modes.sample_folder() / "digits.onnx").read_bytes())
    for file in modes.sample_folder().iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("command", _quant_commands())
def test_every_quant_command_of_the_readme_works(command, sample):
    arguments = shlex.split(command)[1:]
    more = QUICK if arguments[0] == "convert" and not {"--help", "--dry-run"} & set(arguments) else []
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(sample), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = boundary.run(cli.quant, [*arguments, *more])
    assert (code, err.getvalue() if code else "") == (0, "")


@pytest.mark.parametrize("block", _blocks(ROOT / "README.md", "python"))
def test_every_python_example_of_the_readme_runs(block, sample):
    with contextlib.chdir(sample):
        exec(compile(block, "README.md", "exec"), {})  # noqa: S102 - our own page


def test_the_readme_names_every_mode():
    text = (ROOT / "README.md").read_text("utf-8")
    assert [name for name in modes.names() if f"`{name}`" not in text] == []


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/test_docs_pages.py --write")
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text("utf-8").partition(MODES_BEGIN)
    readme.write_text(before + MODES_BEGIN + modes_table() + MODES_END + rest.partition(MODES_END)[2], "utf-8")
    for page_name, page_text in GENERATED.items():
        (DOCS / page_name).write_text(page_text(), "utf-8")
