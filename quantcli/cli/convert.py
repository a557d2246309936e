"""``quant convert``: its options, and the call of ``api.convert`` with them."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from quantcli.cli import deferred, document, options, progress, terminal
from quantcli.errors import QuantError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantcli.api import Result
    from quantcli.encodings import Json

HELP: Final = """Convert MODEL, a float ONNX model, into an integer or smaller one, compare both, and write the result.

Without MODEL, the bundled sample is converted: a classifier of handwritten digits with its calibration samples.

Writes OUT.onnx, OUT.encodings.json and OUT.report.json, all of them or none; the weights of a model
that is too large for one file into OUT.onnx.data beside it.

\b
Exit codes: 0 verified output written, 1 quality below --min-sqnr, 2 usage,
3 bad model, data, recipe or statistics, 4 impossible in this mode, 70 a bug of ours, 130 interrupted.
"""
IO_TYPES: Final = click.Choice(("float32", "float16", "int8", "uint8", "int16"))
FILE: Final = click.Path(path_type=Path)

GROUPS: Final = {
    "What to make": (
        click.Argument(["model"], type=FILE, required=False),
        click.Option(
            ["--mode"],
            default="int8-only",
            show_default=True,
            metavar="MODE",
            shell_complete=options.complete_modes_and_all,
            help="What kind of integer model; 'quant modes' lists them.  'all' makes every one and compares them.",
        ),
        click.Option(
            ["-o", "--output"],
            type=FILE,
            metavar="OUT.onnx",
            help="Where to write; a folder with --mode all.  [default: MODEL's name with the mode, in this folder]",
        ),
        click.Option(["--input-type"], type=IO_TYPES, help="Type of the inputs.  [default: the mode's]"),
        click.Option(["--output-type"], type=IO_TYPES, help="Type of the outputs.  [default: the mode's]"),
        click.Option(["--io"], type=IO_TYPES, help="Type of inputs and outputs both."),
        click.Option(
            ["--format"],
            type=click.Choice(("qdq", "integer")),
            help="Float operators between Q and DQ, or integer operators.  [default: the mode's]",
        ),
        click.Option(
            ["--fallback"],
            type=click.Choice(("float", "refuse")),
            help="What has no integer form stays float, or is refused with every reason.  [default: the mode's]",
        ),
        click.Option(
            ["--portable"],
            is_flag=True,
            help="Write integer products that are exact on x86 CPUs without VNNI too, where sums of two may saturate.",
        ),
    ),
    "Calibration data": (
        options.dataset_option("Real samples"),
        options.image_preset_option(),
        click.Option(
            ["--random-data"],
            type=click.IntRange(1, 100_000),
            metavar="N",
            help="Calibrate on N random samples instead; for trials only, the accuracy means nothing.",
        ),
        click.Option(
            ["--data-free"],
            is_flag=True,
            help="Calibrate on samples made from what the model says of its data; real ones give more accuracy.",
        ),
        click.Option(
            ["--samples"],
            type=click.IntRange(1),
            metavar="N",
            help="Use at most N samples.  [default: all of the spec]",
        ),
        click.Option(
            ["--stats"],
            type=FILE,
            metavar="FILE",
            help="Take ranges from statistics that 'quant calibrate' saved, instead of running the model.",
        ),
        click.Option(
            ["--no-cache", "cache"],
            is_flag=True,
            flag_value=False,
            default=True,
            help="Neither look up what was seen of these samples before nor keep it ('quant cache').",
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
        options.preset_option(images=True),
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
        options.custom_op_lib_option(),
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
    both = asked["io"]
    types = {side: asked[side] or both for side in ("input_type", "output_type")}
    chosen = api.Options(**{f.name: asked[f.name] for f in fields(api.Options)} | types | options.presets_of(asked))
    several = _several(asked["model"], asked["representative_dataset"])
    if asked["mode"] == options.ALL:
        _check_alone(several)
    results: Mapping[str, Result | QuantError]
    with progress.watching(quiet=asked["quiet"]) as instruments:
        given = {"output": asked["output"], "options": chosen, "instruments": instruments}
        if asked["mode"] == options.ALL:
            results = api.convert_all(asked["model"], representative_dataset=asked["representative_dataset"], **given)
        elif several is not None:
            results = api.convert_signatures(several, mode=asked["mode"], **given)
        else:
            source = asked["representative_dataset"]
            results = {"": api.convert(asked["model"], mode=asked["mode"], representative_dataset=source, **given)}
    _say(results, asked)


def _say(results: Mapping[str, Result | QuantError], asked: Mapping[str, object]) -> None:
    """Print what came out: a comparison of all modes, a document, a report for each model, or nothing."""
    from quantcli.cli import comparison  # noqa: PLC0415 - needed only now

    done = {name: r for name, r in results.items() if not isinstance(r, QuantError)}
    if asked["mode"] == options.ALL and (asked["json"] or not asked["quiet"]):
        comparison.show(results, int(str(asked["threads"] or 1)), as_json=bool(asked["json"]))
    elif asked["json"]:
        _say_json(done)
    elif not asked["quiet"]:
        _say_reports(done)


def _check_alone(several: Path | None) -> None:
    if several is not None:
        raise UsageError(
            f"--mode all compares the modes of one model; {several} has several",
            hint="name one mode for all of them, or give one model with its dataset",
        )


def _several(model: Path | None, dataset: Path | None) -> Path | None:
    """Return the spec of several models, given as MODEL or, without one, as the dataset."""
    from quantcli import data  # noqa: PLC0415 - help must not load numpy

    given = model or dataset
    if given is None or not data.is_signatures(given):
        return None
    if model is not None and dataset is not None:
        raise UsageError(
            f"{model} names a dataset for each of its models; --representative-dataset has no place beside it",
            hint="leave --representative-dataset out",
        )
    return given


def _check(context: click.Context) -> None:
    given = context.get_parameter_source("mode") is not click.core.ParameterSource.DEFAULT
    if given and context.params["recipe"] is not None:
        raise UsageError("--mode and --recipe exclude each other", hint="a recipe may say 'extends: MODE' itself")
    threshold = context.params["min_sqnr"]
    if threshold is not None and math.isnan(threshold):  # every comparison with it would pass
        raise UsageError("--min-sqnr nan is not a number of decibels", hint="for example --min-sqnr 20")
    if context.params["keep"] and threshold is None:
        raise UsageError("--keep means nothing without --min-sqnr", hint="add --min-sqnr DB, or leave --keep out")


def _say_reports(results: Mapping[str, Result]) -> None:
    from quantcli.cli import summary  # noqa: PLC0415 - needed only now
    from quantcli.cli.sections import Section  # noqa: PLC0415 - needed only now

    for name, result in results.items():
        title = [Section("signature", lines=(name,))] if name else []
        terminal.show([*title, *summary.of(result)])


def _say_json(results: Mapping[str, Result]) -> None:
    from quantcli import documents  # noqa: PLC0415 - help must not load onnx

    said: dict[str, Json] = {name: document.of(result) for name, result in results.items()}
    alone = results.get("")
    shown = document.of(alone) if alone is not None else {"signatures": said}
    terminal.say(documents.text(shown).rstrip("\n"))


command: Final = options.GroupedCommand("convert", callback=_convert, text=HELP, groups=GROUPS)
