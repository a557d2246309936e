"""``quant convert --mode all``: converts in every mode and shows them beside each other, measured in turns."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from quantcli.cli import boundary, document, terminal
from quantcli.cli.quantities import decibels, milliseconds, size, times
from quantcli.cli.sections import Section
from quantcli.cli.terminal import one_line
from quantcli.errors import QuantError
from quantcli.report import ABSORBED, FLOAT, INTEGER, STORED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantcli.api import Latency, Result
    from quantcli.encodings import Json

    Outcomes = Mapping[str, Result | QuantError]
    Latencies = Mapping[str, Latency]

HEADER: Final = (
    "mode", "size", "of float", "worst SQNR", "top-1", "median", "fastest", "speed", "integer", "stored", "float",
    "note",
)  # fmt: skip
REASONS_SHOWN: Final = 5
_DASH: Final = "-"


def show(outcomes: Outcomes, threads: int, *, as_json: bool) -> None:
    """Measure what was made, and print the comparison or its document."""
    from quantcli import api, documents  # noqa: PLC0415 - help must not load onnxruntime

    latencies = api.latencies(outcomes, threads)
    if as_json:
        terminal.say(documents.text(_document(outcomes, latencies, threads)).rstrip("\n"))
    else:
        terminal.show(of(outcomes, latencies, threads))


def of(outcomes: Outcomes, latencies: Latencies, threads: int) -> list[Section]:
    """Return the comparison as sections: the table, the reasons of refusals, and what the reports warn of."""
    done = {mode: r for mode, r in outcomes.items() if not isinstance(r, QuantError)}
    rows = [_float_row(done, latencies)] if latencies else []
    rows += [_row(mode, r, latencies) for mode, r in outcomes.items()]
    right = frozenset(range(1, len(HEADER) - 1))
    sections = [
        _notes(done),
        Section("modes", tuple(rows), HEADER, right, tuple(_explained(done, latencies, threads))),
        *(_refusal(mode, r) for mode, r in outcomes.items() if isinstance(r, QuantError)),
        Section("written", lines=tuple(str(r.output) for r in done.values() if r.output is not None)),
        _warnings(done),
    ]
    return [s for s in sections if s.rows or s.lines]


def _float_row(done: Mapping[str, Result], latencies: Latencies) -> tuple[str, ...]:
    result = next(iter(done.values()))
    sizes, accuracy = result.report.get("sizes"), result.state.report.accuracy if result.state else None
    whole = size(sizes["float_bytes"]) if isinstance(sizes, dict) else _DASH  # type: ignore[arg-type]
    top1 = f"{accuracy.float_top1:.2%}" if accuracy is not None else _DASH
    return ("(the model)", whole, "100.0%", _DASH, top1, *_times("", latencies), _DASH, _DASH, _DASH, "")


def _row(mode: str, result: Result | QuantError, latencies: Latencies) -> tuple[str, ...]:
    if isinstance(result, QuantError) or result.state is None:
        why = f"refused: {one_line(result.message)}" if isinstance(result, QuantError) else ""
        return (mode, *(_DASH,) * (len(HEADER) - 2), why)
    report, sizes = result.state.report, result.report.get("sizes")
    measured = (size(sizes["quantized_bytes"]), f"{sizes['ratio']:.1%}") if isinstance(sizes, dict) else (_DASH, _DASH)  # type: ignore[arg-type]
    qualities = report.verification.outputs.values() if report.verification is not None else ()
    worst = decibels(min(q.sqnr_db for q in qualities)) if qualities else _DASH
    top1 = f"{report.accuracy.quantized_top1:.2%}" if report.accuracy is not None else _DASH
    return (mode, *measured, worst, top1, *_times(mode, latencies), *_coverage(result), "")


def _times(mode: str, latencies: Latencies) -> tuple[str, str, str]:
    if mode not in latencies:
        return _DASH, _DASH, _DASH
    found = latencies[mode]
    return milliseconds(found.median), milliseconds(found.minimum), times(latencies[""].median / found.median)


def _coverage(result: Result) -> tuple[str, str, str]:
    counted = result.state.report.count() if result.state is not None else {}
    integer = counted.get(INTEGER, 0) + counted.get(ABSORBED, 0)
    return str(integer), str(counted.get(STORED, 0)), str(counted.get(FLOAT, 0))


def _explained(done: Mapping[str, Result], latencies: Latencies, threads: int) -> list[str]:
    said = []
    if latencies:
        many = f"{threads} threads" if threads > 1 else "1 thread"
        said.append(f"time of one sample on {many}, all models in turns; speed is that of the medians against float")
    elif any(r.output is not None for r in done.values()):
        said.append("times are not measured: memory does not hold a model this large in every mode at once")
    states = [r.state for r in done.values() if r.state is not None]
    accuracy = next((s.report.accuracy for s in states if s.report.accuracy is not None), None)
    if accuracy is not None:
        said.append(f"top-1 over {accuracy.samples} labelled samples, output {accuracy.output!r}")
    return [*said, "integer, stored, float: operators computed in integers, with weights stored smaller, in float"]


def _refusal(mode: str, error: QuantError) -> Section:
    from quantcli import prospects  # noqa: PLC0415 - help must not load onnx

    reasons = [f"{ops}: {reason}" if ops.strip("0123456789") else reason for reason, ops in prospects.causes(error)]
    more = [f"and {len(reasons) - REASONS_SHOWN} more reasons"] if len(reasons) > REASONS_SHOWN else []
    hint = [f"hint: {one_line(error.hint)}"] if error.hint else []
    shown = (one_line(error.message), *(one_line(r) for r in reasons[:REASONS_SHOWN]), *more, *hint)
    return Section(f"{mode} was not made", lines=shown)


def _notes(done: Mapping[str, Result]) -> Section:
    """Return what every report notes; a note of one mode stands in its own report."""
    states = [r.state for r in done.values() if r.state is not None]
    common = [n for n in states[0].report.notes if all(n in s.report.notes for s in states)] if states else []
    return Section("notes", lines=tuple(one_line(n) for n in common))


def _warnings(done: Mapping[str, Result]) -> Section:
    modes: dict[str, list[str]] = {}
    for mode, result in done.items():
        for warning in result.state.report.warnings if result.state is not None else ():
            modes.setdefault(warning, []).append(mode)
    lines = tuple(f"- {', '.join(where)}: {one_line(warning)}" for warning, where in modes.items())
    return Section("warnings", lines=lines, urgent=True)


def _document(outcomes: Outcomes, latencies: Latencies, threads: int) -> dict[str, Json]:
    modes: dict[str, Json] = {}
    for mode, result in outcomes.items():
        said: dict[str, Json] = {"error": _error(result)} if isinstance(result, QuantError) else document.of(result)
        modes[mode] = said | ({"latency": _latency(mode, latencies)} if mode in latencies else {})
    measured = {"latency": _latency("", latencies)} if latencies else {}
    return {"modes": modes, "float": dict(measured), "threads": threads}


def _error(error: QuantError) -> Json:
    told = asdict(boundary.failure_of(error))
    return {**told, "reasons": list(told["reasons"])}


def _latency(mode: str, latencies: Latencies) -> Json:
    found, whole = latencies[mode], latencies[""]
    return {
        "median_seconds": found.median,
        "minimum_seconds": found.minimum,
        "speed": whole.median / found.median,
    }
