"""``quant convert``: its options, and the call of ``api.convert`` with them."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from quantcli.cli import deferred, options, progress, terminal
from quantcli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantcli.api import Result
    from quantcli.encodings import Json

HELP: Final = """Convert MODEL, a float ONNX model, into an integer one, compare the two, and write the result.

Without MODEL, the bundled sample is converted: a classifier of handwritten digits with its calibration samples.

Writes OUT.onnx, OUT.encodings.json and OUT.report.json, all of them or none.

\b
Exit codes: 0 verified output written, 1 quality below --min-sqnr, 2 usage,
3 bad model, data or recipe, 4 impossible in this mode, 70 a bug of ours, 130 interrupted.
"""
IO_TYPES: Final = click.Choice(("float32", "int8", "uint8"))
FILE: Final = click.Path(path_type=Path)

GROUPS: Final = {
    "What to make": (
        click.Argument(["model"], type=FILE, required=False),
        click.Option(
            ["--mode"],
            default="int8-only",
            show_default=True,
            metavar="MODE",
            shell_complete=options.complete_modes,
            help="What kind of integer model; 'quant modes' lists them.",
        ),
        click.Option(
            ["-o", "--output"],
            type=FILE,
            metavar="OUT.onnx",
            help="Where to write.  [default: MODEL's name with the mode, in the current folder]",
        ),
        click.Option(["--input-type"], type=IO_TYPES, help="Type of the inputs.  [default: the mode's]"),
        click.Option(["--output-type"], type=IO_TYPES, help="Type of the outputs.  [default: the mode's]"),
        click.Option(
            ["--format"],
            type=click.Choice(("qdq", "integer")),
            help="Float operators between Q and DQ, or integer operators.  [default: the mode's]",
        ),
    ),
    "Calibration data": (
        click.Option(
            ["--representative-dataset"],
            type=FILE,
            metavar="SPEC",
            help="Real samples: a YAML spec, an .npz of arrays by input name, or a folder of .npz feeds.",
        ),
        click.Option(
            ["--random-data"],
            type=click.IntRange(1, 100_000),
            metavar="N",
            help="Calibrate on N random samples instead; for trials only, the accuracy means nothing.",
        ),
        click.Option(
            ["--samples"],
            type=click.IntRange(1),
            metavar="N",
            help="Use at most N samples.  [default: all of the spec]",
        ),
        click.Option(["--calibrator"], metavar="NAME", help="How ranges are chosen.  [default: the mode's]"),
    ),
    "Recipe": (
        click.Option(
            ["--float", "keep_float"],
            multiple=True,
            metavar="PATTERN",
            help="Keep nodes float: op:Softmax, a glob over node names, re:REGEX, tensor:NAME.  [repeatable]",
        ),
        click.Option(
            ["--recipe"],
            type=FILE,
            metavar="FILE",
            help="A recipe file instead of a mode ('quant modes show' prints one).",
        ),
        click.Option(
            ["--set", "settings"],
            multiple=True,
            metavar="PATH=VALUE",
            help="Change the recipe: scheme.weights.granularity=per-tensor, passes.bias_correction=off.  [repeatable]",
        ),
    ),
    "What is good enough": (
        click.Option(
            ["--min-sqnr"],
            type=click.FloatRange(0, 300),
            metavar="DB",
            help="Fail (exit 1) when the worst output has less than DB decibels of signal to quantization noise.",
        ),
        click.Option(["--keep"], is_flag=True, help="Write the output although it fails --min-sqnr; still exit 1."),
        click.Option(["--strict"], is_flag=True, help="Fail (exit 4) when any operator stays float."),
    ),
    "How to run": (
        click.Option(["--dry-run"], is_flag=True, help="Show the plan; calibrate nothing and write nothing."),
        click.Option(
            ["--threads"],
            type=click.IntRange(1, 1024),
            metavar="N",
            help="Threads of onnxruntime.  [default: all that may be used]",
        ),
        click.Option(["--save-temps"], type=FILE, metavar="DIR", help="Write the model after each pass into DIR."),
        click.Option(["--json"], is_flag=True, help="Print one JSON document on stdout instead of the report."),
        click.Option(["--quiet"], is_flag=True, help="Print nothing but errors."),
        options.debug_option(),
    ),
}


@click.pass_context
def _convert(context: click.Context, /, **_: object) -> None:
    deferred.put_off()
    from quantcli import api  # noqa: PLC0415 - help must not load onnxruntime

    asked = context.params
    _check(context)
    chosen = api.Options(**{f.name: asked[f.name] for f in fields(api.Options)})
    with progress.watching(quiet=asked["quiet"]) as instruments:
        result = api.convert(
            asked["model"],
            mode=asked["mode"],
            representative_dataset=asked["representative_dataset"],
            output=asked["output"],
            options=chosen,
            instruments=instruments,
        )
    if asked["json"]:
        _say_json(result)
    elif not asked["quiet"]:
        _say_report(result)


def _check(context: click.Context) -> None:
    given = context.get_parameter_source("mode") is not click.core.ParameterSource.DEFAULT
    if given and context.params["recipe"] is not None:
        raise UsageError("--mode and --recipe exclude each other", hint="a recipe may say 'extends: MODE' itself")
    threshold = context.params["min_sqnr"]
    if threshold is not None and math.isnan(threshold):  # every comparison with it would pass
        raise UsageError("--min-sqnr nan is not a number of decibels", hint="for example --min-sqnr 20")
    if context.params["keep"] and threshold is None:
        raise UsageError("--keep means nothing without --min-sqnr", hint="add --min-sqnr DB, or leave --keep out")


def _say_report(result: Result) -> None:
    from quantcli.cli import summary  # noqa: PLC0415 - needed only now

    terminal.show(summary.of(result))


def _say_json(result: Result) -> None:
    from quantcli import documents  # noqa: PLC0415 - help must not load onnx

    written: Mapping[str, Json] = {}
    if result.output is not None:
        encodings, report = documents.sidecars(result.output)
        written = {"model": str(result.output), "encodings": str(encodings), "report": str(report)}
    timings: Mapping[str, Json] = dict(result.state.report.timings) if result.state else {}
    document = {**result.report, "written": dict(written), "seconds": dict(timings)}
    terminal.say(documents.text(document).rstrip("\n"))


command: Final = options.GroupedCommand("convert", callback=_convert, text=HELP, groups=GROUPS)
