"""``quant calibrate``: its options, most of them those of ``quant convert``, and the call of ``api.calibrate``."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from quantcli.cli import convert, deferred, options, progress, terminal
from quantcli.cli.quantities import size
from quantcli.cli.sections import Section
from quantcli.cli.terminal import one_line
from quantcli.errors import UsageError

if TYPE_CHECKING:
    from quantcli.api import Calibrated
    from quantcli.encodings import Json

HELP: Final = """Run MODEL on real samples and save what was seen, for any number of conversions.

'quant convert --stats FILE' takes ranges from it instead of running the model. The file serves every method
of calibration, the modes that it was made for, and this model on these samples only: anything else is refused.

Without MODEL, the bundled sample is calibrated.
"""
FILE: Final = click.Path(path_type=Path)

GROUPS: Final = {
    "What to calibrate": (
        click.Argument(["model"], type=FILE, required=False),
        click.Option(
            ["--mode", "modes"],
            multiple=True,
            metavar="MODE",
            shell_complete=options.complete_modes,
            help="What conversions will make.  [repeatable; default: every mode that calibrates]",
        ),
        click.Option(
            ["-o", "--output"],
            type=FILE,
            metavar="STATS.json",
            help="Where to write.  [default: MODEL's name with .stats.json, in this folder]",
        ),
        *options.picked(convert.GROUPS, "input_type", "output_type", "format", "fallback"),
    ),
    "Calibration data": options.without(convert.GROUPS["Calibration data"], "stats"),
    "Recipe": convert.GROUPS["Recipe"],
    "How to run": (
        *options.picked(convert.GROUPS, "custom_op_libs", "threads"),
        click.Option(["--json"], is_flag=True, help="Print one JSON document on stdout instead of the summary."),
        click.Option(["--quiet"], is_flag=True, help="Print nothing but errors."),
        options.debug_option(),
    ),
}


@click.pass_context
def _calibrate(context: click.Context, /, **_: object) -> None:
    deferred.put_off()
    from quantcli import api, data, documents  # noqa: PLC0415 - help must not load onnxruntime

    asked = context.params
    if asked["modes"] and asked["recipe"] is not None:
        raise UsageError("--mode and --recipe exclude each other", hint="a recipe may say 'extends: MODE' itself")
    given = asked["model"] or asked["representative_dataset"]
    if given is not None and data.is_signatures(given):
        raise UsageError(f"{given} has several models; statistics are of one", hint="calibrate one after the other")
    known = {f.name: asked[f.name] for f in fields(api.Options) if f.name in asked}
    chosen = api.Options(**known | options.presets_of(asked))
    with progress.watching(quiet=asked["quiet"]) as instruments:
        found = api.calibrate(
            asked["model"],
            modes=asked["modes"],
            representative_dataset=asked["representative_dataset"],
            output=asked["output"],
            options=chosen,
            instruments=instruments,
        )
    if asked["json"]:
        terminal.say(documents.text(_document(found)).rstrip("\n"))
    elif not asked["quiet"]:
        terminal.show([s for s in _sections(found) if s.rows or s.lines])


def _sections(found: Calibrated) -> list[Section]:
    saved = found.statistics
    written = ("statistics", str(found.output), size(found.output.stat().st_size))
    tensors = tuple((mode, str(len(state.stats))) for mode, state in found.states.items())
    refused = tuple((mode, one_line(error.message)) for mode, error in found.refused.items())
    about = (f"of {saved.samples} samples of {saved.data}", f"model sha256 {saved.model_sha256}",
             f"data sha256 {saved.data_sha256}")  # fmt: skip
    return [
        Section("notes", lines=tuple(one_line(n) for n in _said(found, "notes"))),
        Section("written", (written,), right=frozenset({2}), lines=about),
        Section("tensors with a range", tensors, ("mode", "tensors"), frozenset({1})),
        Section("not for these modes", refused, ("mode", "reason")),
        Section("warnings", lines=tuple(f"- {one_line(w)}" for w in _said(found, "warnings")), urgent=True),
    ]


def _document(found: Calibrated) -> dict[str, Json]:
    saved = found.statistics
    return {
        "model_sha256": saved.model_sha256,
        "data_sha256": saved.data_sha256,
        "data": saved.data,
        "samples": saved.samples,
        "random_data": saved.random_data,
        "tensors": {mode: len(state.stats) for mode, state in found.states.items()},
        "refused": {mode: error.message for mode, error in found.refused.items()},
        "warnings": list(_said(found, "warnings")),
        "notes": list(_said(found, "notes")),
        "written": {"statistics": str(found.output)},
    }


def _said(found: Calibrated, kind: str) -> tuple[str, ...]:
    """Return the notes or warnings of all modes, each once."""
    return tuple(dict.fromkeys(text for state in found.states.values() for text in getattr(state.report, kind)))


command: Final = options.GroupedCommand("calibrate", callback=_calibrate, text=HELP, groups=GROUPS)
