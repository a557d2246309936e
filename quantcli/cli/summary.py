"""Turns the result of a conversion, or a plan, into sections to show. Values in, values out; draws nothing."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from quantcli.cli.iocard import iocard
from quantcli.cli.quantities import decibels, size
from quantcli.cli.sections import Section
from quantcli.cli.terminal import one_line
from quantcli.report import ABSORBED, FLOAT, FOLDED, INTEGER

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from quantcli.api import Result
    from quantcli.report import Entry, OutputQuality, Report
    from quantcli.state import State

NAMES_SHOWN: Final = 3
PASSES_SHOWN: Final = 3


def of(result: Result) -> list[Section]:
    """Return what to show of a conversion, or of a plan where nothing was written."""
    if result.state is None:
        return []
    made = _plan(result.state) if result.output is None else _conversion(result, result.output, result.state)
    return [s for s in made if s.rows or s.lines]


def _conversion(result: Result, output: Path, state: State) -> list[Section]:
    report = state.report
    return [
        _notes(report),
        _written(result, output),
        _coverage(report, "coverage"),
        _floats(report),
        _data(report),
        _verification(report),
        _slowest(report),
        iocard(state),
        _warnings(report),
    ]


def _plan(state: State) -> list[Section]:
    report, recipe = state.report, state.recipe
    data = "calibration data is needed" if recipe.needs_data else "no calibration data is needed"
    return [
        _notes(report),
        _nodes(report),
        _coverage(report, f"plan for mode {recipe.name}, format {recipe.format}; nothing was written"),
        _integers(report),
        _floats(report),
        Section("data", _inputs(state), ("input", "type", "shape"), lines=(data,)),
        Section("inputs and outputs", (("inputs", recipe.inputs), ("outputs", recipe.outputs))),
        _warnings(report),
    ]


def _notes(report: Report) -> Section:
    return Section("notes", lines=tuple(one_line(n) for n in report.notes))


def _warnings(report: Report) -> Section:
    return Section("warnings", lines=tuple(f"- {one_line(w)}" for w in report.warnings), urgent=True)


def _written(result: Result, output: Path) -> Section:
    from quantcli import documents  # noqa: PLC0415 - loaded by the conversion already; help does without it

    encodings, report = documents.sidecars(output)
    weights = {"weights": result.weights} if result.weights is not None else {}
    files = {"model": output, **weights, "encodings": encodings, "report": report}
    rows = tuple((kind, str(path), size(path.stat().st_size)) for kind, path in files.items())
    sizes = result.report.get("sizes")
    lines: tuple[str, ...] = ()
    if isinstance(sizes, dict):
        before, ratio = sizes["float_bytes"], sizes["ratio"]
        lines = (f"the model takes {ratio:.1%} of the float model's {size(before)}",)  # type: ignore[arg-type]
    return Section("written", rows, right=frozenset({2}), lines=lines)


def _coverage(report: Report, title: str) -> Section:
    counted = {INTEGER: 0, ABSORBED: 0, FOLDED: 0, FLOAT: 0, **report.count()}
    said = ", ".join(f"{n} {fate}" for fate, n in counted.items())
    integers, total = report.work()
    work = (f"{integers / total:.1%} of {total:,} multiply-accumulates in integers",) if total else ()
    return Section(title, lines=(f"{sum(counted.values())} operators: {said}", *work))


def _floats(report: Report) -> Section:
    grouped: dict[str, list[Entry]] = {}
    for entry in report.floats():
        grouped.setdefault(entry.reason, []).append(entry)
    ranked = sorted(grouped.items(), key=lambda item: -len(item[1]))
    rows = tuple((str(len(es)), reason, _first(f"{e.node} ({e.op_type})" for e in es)) for reason, es in ranked)
    return Section("stay float", rows, ("count", "reason", "operators"), frozenset({0}))


def _integers(report: Report) -> Section:
    counted = Counter(e.op_type for e in report.ledger.values() if e.fate == INTEGER)
    rows = tuple((str(n), op_type) for op_type, n in counted.most_common())
    return Section("become integer", rows, ("count", "operator"), frozenset({0}))


def _nodes(report: Report) -> Section:
    rows = tuple((e.node, e.op_type, e.fate, e.reason or e.kernel) for e in report.ledger.values())
    return Section("operators", rows, ("name", "type", "fate", "how or why"))


def _data(report: Report) -> Section:
    rows = tuple(
        (name, *(f"{x:.4g}" for x in (s.min, s.max, s.mean, s.std)), str(s.count)) for name, s in report.feeds.items()
    )
    header = ("input", "min", "max", "mean", "std", "values")
    return Section("calibration data", rows, header, frozenset(range(1, 6)))


def _verification(report: Report) -> Section:
    seen = report.verification
    if seen is None:
        return Section("verification")
    rows = tuple(_quality(name, quality) for name, quality in seen.outputs.items())
    lines = [f"optimized and plain execution differ by {seen.optimized_rms_steps:.2g} steps (rms)"]
    if report.accuracy is not None:
        top1 = report.accuracy
        lines.append(
            f"top-1 on {top1.samples} labelled samples: {top1.quantized_top1:.2%}, float {top1.float_top1:.2%}"
        )
    if report.parity_db is not None:
        lines.append(f"prepared float model against the original: {decibels(report.parity_db)}")
    header = ("output", "SQNR", "cosine", "max error", "same top-1")
    title = f"verification against the float model on {seen.samples} samples"
    return Section(title, rows, header, frozenset({1, 2, 3, 4}), tuple(lines))


def _quality(name: str, quality: OutputQuality) -> tuple[str, ...]:
    agreed = "-" if quality.top1_agreement is None else f"{quality.top1_agreement:.1%}"
    return name, decibels(quality.sqnr_db), f"{quality.cosine:.6f}", f"{quality.max_error:.4g}", agreed


def _slowest(report: Report) -> Section:
    ranked = sorted(report.timings.items(), key=lambda item: -item[1])[:PASSES_SHOWN]
    rows = tuple((name, f"{seconds:.2f} s") for name, seconds in ranked)
    total = f"all passes: {sum(report.timings.values()):.2f} s"
    return Section("slowest passes", rows, right=frozenset({1}), lines=(total,))


def _inputs(state: State) -> tuple[tuple[str, ...], ...]:
    graph = state.original.graph
    fed = [v for v in graph.inputs if v.name not in graph.initializers]
    return tuple((str(v.name), str(v.dtype.numpy()) if v.dtype else "?", _shape(v.shape)) for v in fed)


def _shape(shape: Iterable[object] | None) -> str:
    if shape is None:
        return "any"
    return "[" + ", ".join(str(getattr(d, "value", d) or "?") for d in shape) + "]"


def _first(names: Iterable[str]) -> str:
    known = list(names)
    more = f" and {len(known) - NAMES_SHOWN} more" if len(known) > NAMES_SHOWN else ""
    return ", ".join(known[:NAMES_SHOWN]) + more
