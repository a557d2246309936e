"""``quant analyze``: compares granularities of weights, and methods of calibration, operator by operator."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from quantcli.cli import deferred, options, terminal
from quantcli.cli.sections import Section
from quantcli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantcli.encodings import Json
    from quantcli.granularity import Granularities, Loss, Setting
    from quantcli.range_methods import Chosen, RangeMethods

HELP: Final = "Compare ways to quantize a model, side by side, without converting it."
GRANULARITY_HELP: Final = """Compare one scale per tensor, per channel and per block for the weights of MODEL.

For 8 and 4 bits and each linear operator: mean squared error of the weights, their signal to noise, and that of the
operator's result with nothing but its weights quantized; in the last rows the same for all weights together, and for
each output of the model. Writes nothing. Without MODEL, it looks at the bundled sample.
"""
RANGES_HELP: Final = """Compare the ranges that methods of calibration choose for the tensors of MODEL.

For each tensor and method: the range, and the signal to noise of the tensor rounded to it; in the last rows that of an
output of the quantized model, with weights rounded to nearest. Writes nothing. Without MODEL, it looks at the bundled
sample.
"""
FILE: Final = click.Path(path_type=Path)
UNBLOCKED: Final = "-: stored by channel, whatever is asked; it counts as that in what is said of the whole model"
MADE_UP: Final = "on random samples: outputs say little; --representative-dataset gives real ones"


def _groups(samples: int) -> dict[str, tuple[click.Parameter, ...]]:
    return {
        "What to compare": (
            click.Argument(["model"], type=FILE, required=False),
            click.Option(
                ["--representative-dataset"],
                type=FILE,
                metavar="SPEC",
                help="Real samples: a YAML spec, an .npz of arrays by input name, or a folder of .npz feeds.",
            ),
            click.Option(
                ["--samples"],
                type=click.IntRange(min=1),
                default=samples,
                show_default=True,
                metavar="N",
                help="At most this many samples are run.",
            ),
            options.custom_op_lib_option(),
        ),
        "How to say it": (
            click.Option(["--json"], is_flag=True, help="Print one JSON document on stdout instead of the tables."),
            options.debug_option(),
        ),
    }


def _granularity(
    model: Path | None,
    representative_dataset: Path | None,
    samples: int,
    custom_op_libs: tuple[Path, ...],
    *,
    json: bool,
) -> None:
    deferred.put_off()
    from quantcli import documents, granularity  # noqa: PLC0415 - help must not load onnxruntime
    from quantcli.options import Options  # noqa: PLC0415

    found = granularity.compare(
        model,
        representative_dataset=representative_dataset,
        samples=samples,
        options=Options(custom_op_libs=custom_op_libs),
    )
    if json:
        terminal.say(documents.text(document_of(found)).rstrip("\n"))
    else:
        terminal.show(sections_of(found))


def _ranges(
    model: Path | None,
    representative_dataset: Path | None,
    samples: int,
    custom_op_libs: tuple[Path, ...],
    *,
    json: bool,
) -> None:
    deferred.put_off()
    from quantcli import documents, range_methods  # noqa: PLC0415 - help must not load onnxruntime
    from quantcli.options import Options  # noqa: PLC0415

    found = range_methods.compare(
        model,
        representative_dataset=representative_dataset,
        samples=samples,
        options=Options(custom_op_libs=custom_op_libs),
    )
    if json:
        document: dict[str, Json] = {
            "samples": found.samples,
            "tensors": {n: {m: asdict(c) for m, c in by.items()} for n, by in found.tensors.items()},
            "outputs": {n: dict(by) for n, by in found.outputs.items()},
        }
        terminal.say(documents.text(document).rstrip("\n"))
    else:
        terminal.show([_ranges_section(found)])


def _ranges_section(found: RangeMethods) -> Section:
    methods = list(dict.fromkeys(m for by in (*found.tensors.values(), *found.outputs.values()) for m in by))
    rows = [(n, *(_chosen(by.get(m)) for m in methods)) for n, by in found.tensors.items()]
    rows += [(f"output {n}", *(_db(by.get(m, math.nan)) for m in methods)) for n, by in found.outputs.items()]
    title = f"ranges, and SQNR of the tensor rounded to them in dB; {found.samples} samples"
    lines = ("outputs: SQNR of the quantized model, weights rounded to nearest",)
    return Section(title, tuple(rows), ("tensor", *methods), frozenset(range(1, 1 + len(methods))), lines)


def _chosen(choice: Chosen | None) -> str:
    return "-" if choice is None else f"{choice.low:.3g}..{choice.high:.3g} {_db(choice.sqnr_db)}"


def sections_of(found: Granularities) -> list[Section]:
    """Return a table for each number of bits."""
    sections = []
    for bits in dict.fromkeys(s.bits for s in found.model):
        settings = [s for s in found.model if s.bits == bits]
        rows = [
            (o.node, o.op_type, "x".join(map(str, o.shape)), *(_cell(o.losses[s]) for s in settings))
            for o in found.operators
        ]
        rows.append(("all weights, worst output", "", "", *(_cell(found.model[s]) for s in settings)))
        rows += [(f"output {n}", "", "", *(_db(by[s]) for s in settings)) for n, by in found.outputs.items()]
        header = ("operator", "", "weight", *(s.name for s in settings))
        title = f"{bits}-bit weights: MSE, SQNR of the weight, SQNR of the result in dB; {found.samples} samples"
        lines = (*((UNBLOCKED,) if _unblocked(found, settings) else ()), *(() if found.real else (MADE_UP,)))
        sections.append(Section(title, tuple(rows), header, frozenset(range(3, 3 + len(settings))), lines))
    return sections


def document_of(found: Granularities) -> dict[str, Json]:
    """Return the comparison as a document."""
    return {
        "samples": found.samples,
        "real_samples": found.real,
        "operators": [
            {"node": o.node, "op_type": o.op_type, "shape": list(o.shape), "losses": _entries(o.losses)}
            for o in found.operators
        ],
        "model": _entries(found.model),
        "outputs": {
            name: [{**_said(s), "sqnr_db": value} for s, value in by.items()] for name, by in found.outputs.items()
        },
    }


def _entries(losses: Mapping[Setting, Loss | None]) -> list[Json]:
    return [
        {**_said(s), "mse": x.mse, "weight_sqnr_db": x.weight_sqnr_db, "output_sqnr_db": x.output_sqnr_db}
        for s, x in losses.items()
        if x is not None
    ]


def _said(setting: Setting) -> dict[str, Json]:
    block: dict[str, Json] = {"block_size": setting.block} if setting.block else {}
    return {"bits": setting.bits, "granularity": setting.granularity, **block}


def _unblocked(found: Granularities, settings: list[Setting]) -> bool:
    return any(o.losses[s] is None for o in found.operators for s in settings)


def _cell(loss: Loss | None) -> str:
    return "-" if loss is None else f"{loss.mse:.1e} {_db(loss.weight_sqnr_db)} {_db(loss.output_sqnr_db)}"


def _db(value: float) -> str:
    return "exact" if value == math.inf else "-" if math.isnan(value) else f"{value:.1f}"


@click.pass_context
def _analyze(context: click.Context, /) -> None:
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(UsageError.exit_code)


command: Final = click.Group(
    "analyze", callback=_analyze, invoke_without_command=True, help=HELP, params=[options.debug_option()]
)
for _name, _callback, _text, _samples in (
    ("granularity", _granularity, GRANULARITY_HELP, 16),
    ("ranges", _ranges, RANGES_HELP, 32),
):
    command.add_command(options.GroupedCommand(_name, callback=_callback, text=_text, groups=_groups(_samples)))
