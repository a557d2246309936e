"""``quant advise``: looks at a model and recommends a mode; converts nothing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from quantcli.cli import deferred, options, terminal
from quantcli.cli.quantities import size, spread
from quantcli.cli.sections import Section
from quantcli.cli.terminal import one_line

if TYPE_CHECKING:
    from quantcli.api import Advice
    from quantcli.facts import Facts

HELP: Final = """Recommend a mode for MODEL, with reasons, alternatives and what each of them would lose.

Looks at operators, weights and shapes, the data at hand and the target; converts nothing and writes nothing.
Ends with the command to run. Without MODEL, it looks at the bundled sample.
"""
TARGETS: Final = ("cpu", "edge-integer", "gpu", "size")
FILE: Final = click.Path(path_type=Path)
LOSSES_SHOWN: Final = 4
TYPES_SHOWN: Final = 12
WIDTH: Final = 160

GROUPS: Final = {
    "What for": (
        click.Argument(["model"], type=FILE, required=False),
        options.dataset_option("Samples that are at hand"),
        options.image_preset_option(),
        click.Option(
            ["--target"],
            type=click.Choice(TARGETS),
            default="cpu",
            show_default=True,
            help="Speed on this runtime, a device without float arithmetic, a GPU, or the smallest file.",
        ),
        options.custom_op_lib_option(),
    ),
    "How to say it": (
        click.Option(["--json"], is_flag=True, help="Print one JSON document on stdout instead of the advice."),
        options.debug_option(),
    ),
}


@click.pass_context
def _advise(context: click.Context, /, **_: object) -> None:
    deferred.put_off()
    from quantcli import api, documents  # noqa: PLC0415 - help must not load onnxruntime

    given = dict(context.params)
    json = given.pop("json")
    advice = api.advise(given.pop("model"), **given)
    if json:
        terminal.say(documents.text(asdict(advice)).rstrip("\n"))
    else:
        terminal.show(of(advice))


def of(advice: Advice) -> list[Section]:
    """Return the advice as sections, the command last."""
    sections = [
        _facts(advice.facts),
        Section(f"recommended for {advice.target}: {advice.mode}", lines=tuple(f"- {r}" for r in advice.reasons)),
        _alternatives(advice),
        *_losses(advice),
        Section("to mind", lines=tuple(f"- {n}" for n in advice.notes)),
        Section("to run", lines=(advice.command,)),
    ]
    return [s for s in sections if s.rows or s.lines]


def _facts(facts: Facts) -> Section:
    types = [f"{n} {op}" for op, n in list(facts.operators.items())[:TYPES_SHOWN]]
    more = [f"and {len(facts.operators) - TYPES_SHOWN} more types"] if len(facts.operators) > TYPES_SHOWN else []
    rows = tuple(
        (kind, str(load.operators), f"{load.macs / 1e6:.3f}", f"{load.weights:,}", size(load.weight_bytes))
        for kind, load in facts.loads.items()
    )
    fed = ", ".join(f"{name} {dtype} {shape}" for name, dtype, shape in facts.inputs)
    lines = (
        f"operators: {', '.join([*types, *more])}",
        f"file: {size(facts.file_bytes)}, of it float weights: {size(facts.float_bytes)}",
        f"inputs: {one_line(fed)}",
    )
    header = ("kind", "operators", "million MAC", "weights", "size")
    return Section("the model", rows, header, frozenset({1, 2, 3, 4}), lines)


def _alternatives(advice: Advice) -> Section:
    rows = []
    for rank, found in enumerate(advice.alternatives, 1):
        if found.bytes is None or found.ratio is None or found.speed is None:
            made = ("-", "-", "-", "-", "-", "-", "refuses")
        else:
            floats = "; ".join(found.mind)
            counts = (str(found.integer), str(found.stored))
            made = (
                size(found.bytes),
                f"{found.ratio:.0%}",
                spread(*found.speed),
                *counts,
                _data(found.needs_data),
                floats,
            )
        rows.append((str(rank), found.mode, *made))
    header = ("", "mode", "size", "of float", "speed", "integer", "stored", "data", "to mind")
    lines = (
        "expected, not measured: sizes from the weights, speeds against float from measured ranges by kind of operator",
    )
    return Section("modes", tuple(rows), header, frozenset({0, 2, 3, 4, 5, 6}), lines)


def _data(needed: bool) -> str:  # noqa: FBT001 - the one fact that is shown
    return "needed" if needed else "-"


def _losses(advice: Advice) -> list[Section]:
    sections = []
    for found in advice.alternatives:
        shown = [_cut(one_line(text)) for text in found.lost[:LOSSES_SHOWN]]
        more = [f"and {len(found.lost) - LOSSES_SHOWN} more reasons"] if len(found.lost) > LOSSES_SHOWN else []
        sections.append(Section(f"what {found.mode} would leave", lines=(*shown, *more)))
    return sections


def _cut(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 4]} ..."


command: Final = options.GroupedCommand("advise", callback=_advise, text=HELP, groups=GROUPS)
