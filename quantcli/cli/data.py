"""``quant data``: shows what a representative dataset would feed; converts nothing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from quantcli.cli import deferred, options, terminal
from quantcli.cli.sections import Section
from quantcli.cli.terminal import one_line
from quantcli.errors import UsageError

if TYPE_CHECKING:
    from quantcli.api import DataReport
    from quantcli.feed_statistics import Summary, Values

HELP: Final = """Show what SPEC, a representative dataset, would feed: shapes, ranges, classes, and what is suspicious.

SPEC is whatever 'quant convert --representative-dataset' takes. With --model, the data is opened for the inputs
of that model, the model is run on it, and what the samples do not exercise is told: channels and tensors that never
change, branches that are never taken, colours in the wrong order. Warnings leave the exit code at 0.
"""
FILE: Final = click.Path(path_type=Path)
SHAPES_SHOWN: Final = 3
CLASSES_SHOWN: Final = 20

GROUPS: Final = {
    "What to look at": (
        click.Argument(["spec"], type=FILE),
        click.Option(["--model"], type=FILE, metavar="MODEL", help="The float model that the samples are for."),
        click.Option(
            ["--samples"],
            type=click.IntRange(1),
            metavar="N",
            help="Look at no more than N samples.  [default: all of the spec]",
        ),
        options.image_preset_option("--preset"),
        options.custom_op_lib_option(),
    ),
    "How to say it": (
        click.Option(
            ["-o", "--output"],
            type=FILE,
            metavar="SHEET.png",
            help="Write a contact sheet of the images as they are fed.",
        ),
        click.Option(["--json"], is_flag=True, help="Print one JSON document on stdout instead of the tables."),
        options.debug_option(),
    ),
}


@click.pass_context
def _data(context: click.Context, /, **_: object) -> None:
    deferred.put_off()
    from quantcli import api, data, documents  # noqa: PLC0415 - help must not load onnxruntime

    asked = context.params
    if data.is_signatures(asked["spec"]):
        raise UsageError(
            f"{asked['spec']} has several models, each with its own dataset", hint="give the dataset of one of them"
        )
    chosen = api.Options(**{name: asked[name] for name in ("samples", "image_preset", "custom_op_libs")})
    report = api.describe_data(asked["spec"], model=asked["model"], output=asked["output"], options=chosen)
    if asked["json"]:
        terminal.say(documents.text(asdict(report)).rstrip("\n"))
    else:
        terminal.show(of(report, asked["output"]))


def of(report: DataReport, sheet: Path | None) -> list[Section]:
    """Return the report as sections."""
    sections = [
        Section("the data", lines=_head(report)),
        _inputs(report),
        *(_channels(s) for s in report.inputs),
        _classes(report),
        Section("written", lines=(str(sheet),) if sheet is not None else ()),
        Section("warnings", lines=tuple(f"- {one_line(w)}" for w in report.warnings), urgent=True),
    ]
    return [s for s in sections if s.rows or s.lines]


def _head(report: DataReport) -> tuple[str, ...]:
    samples = "1 sample" if report.samples == 1 else f"{report.samples} samples"
    model = f" for {one_line(report.model)}" if report.model else ""
    return (f"{one_line(report.description)}: {samples}{model}", f"sha256 of what is fed: {report.digest}")


def _inputs(report: DataReport) -> Section:
    header = ("input", "type", "shape", "min", "max", "mean", "std")
    rows = tuple((s.name, s.dtype, _shapes(s), *_numbers(s.values)) for s in report.inputs)
    return Section("inputs", rows, header, frozenset({3, 4, 5, 6}))


def _channels(summary: Summary) -> Section:
    rows = tuple((str(i), *_numbers(values)) for i, values in enumerate(summary.channels))
    title = f"channels of {one_line(summary.name)} ({summary.layout})"
    return Section(title, rows, ("channel", "min", "max", "mean", "std"), frozenset({1, 2, 3, 4}))


def _classes(report: DataReport) -> Section:
    shown = list(report.classes.items())[:CLASSES_SHOWN]
    more = len(report.classes) - len(shown)
    lines = (f"and {more} more classes",) if more else ()
    rows = tuple((str(label), str(count)) for label, count in shown)
    return Section("classes", rows, ("class", "samples"), frozenset({0, 1}), lines)


def _shapes(summary: Summary) -> str:
    shown = [f"[{', '.join(map(str, shape))}]" for shape, _ in summary.shapes[:SHAPES_SHOWN]]
    more = len(summary.shapes) - len(shown)
    return ", ".join([*shown, *([f"and {more} more"] if more else [])])


def _numbers(values: Values | None) -> tuple[str, str, str, str]:
    if values is None:
        return ("-", "-", "-", "-")
    return (f"{values.minimum:.6g}", f"{values.maximum:.6g}", f"{values.mean:.6g}", f"{values.std:.6g}")


command: Final = options.GroupedCommand("data", callback=_data, text=HELP, groups=GROUPS)
