"""Measures speed, conversion cost and memory against float32 and against onnxruntime's own ``quantize_static``.

python benchmarks/bench.py [--zoo DIR] [--quick]

(a) latency of the bundled sample, of generated models and of a zoo's: one thread, interleaved, medians;
(b) CPU seconds and peak memory of a conversion, each in a fresh process;
(c) peak memory of a conversion with few and with many samples;
(d), (e) the same of calibration alone, against onnxruntime's calibrators (``benchmarks/calibration.py``).
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import calibration
import kernels_used
import latency
import measured
import peer
import subjects
from tables import Table

from quantcli import modes
from quantcli.data import open_dataset

FLOAT, FULL, INT8, STATIC = "float32", "full-integer", "int8-only", "quantize_static"
REFINEMENTS = ("equalize", "gptq", "bias_correction")  # what a plain min-max conversion has not
LEVEL = 0.97  # ratios above are within what repeated runs differ by
FEW = 10


@dataclass(frozen=True, slots=True)
class Limits:
    """How much to measure."""

    samples: int | None
    seconds: float  # of one race
    repeats: int
    many: int
    deadline: float

    @property
    def reached(self) -> bool:
        """Tell whether the time is up."""
        return time.perf_counter() > self.deadline


@dataclass(slots=True)
class Converted:
    """What became of one subject: files by variant, costs by way, remarks."""

    subject: subjects.Subject
    files: dict[str, Path] = field(default_factory=dict)
    costs: dict[str, measured.Cost] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def main() -> int:
    asked = _arguments()
    limits = _limits(asked)
    if asked.zoo and not asked.zoo.is_dir():
        print("--zoo: no such folder", file=sys.stderr)
        return 2
    with TemporaryDirectory() as folder:
        work = Path(folder)
        converted, left_out = [], []
        _warm_up(work)
        for subject in subjects.chosen(work, asked.zoo, asked.only):
            if limits.reached:
                left_out.append(subject.name)
                continue
            print(f"{subject.name} ...", file=sys.stderr, flush=True)
            place = work / f"{len(converted)}"
            place.mkdir()
            converted.append(_convert(place, subject, limits))
        for table in _tables(converted, limits):
            print(table.plain(), flush=True)
        print((_memory(work, limits)).plain())
        for table in calibration.tables(work, samples=limits.samples or 100, repeats=1, many=limits.many):
            print(table.plain(), flush=True)
    if left_out:
        print(f"not measured, the time was up: {', '.join(left_out)} (--minutes gives more)")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--zoo", type=Path, metavar="DIR", help="folders with model.onnx and dataset.yaml")
    parser.add_argument("--quick", action="store_true", help="fewer samples and shorter rounds")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only this model; repeatable")
    parser.add_argument("--samples", type=int, default=100, metavar="N", help="most samples; 0 for all (default 100)")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="conversions for each cost; lowest counts")
    parser.add_argument("--minutes", type=float, default=2.5, metavar="M", help="then no further conversion is begun")
    return parser.parse_args()


def _limits(asked: argparse.Namespace) -> Limits:
    deadline = time.perf_counter() + 60 * asked.minutes
    if asked.quick:
        return Limits(16, 0.8, 1, 200, deadline)
    return Limits(asked.samples or None, 3.0, asked.repeat, 1000, deadline)


def _warm_up(work: Path) -> None:
    """Let every module be compiled and read once, so that the first figures are like the last."""
    place = work / "warm-up"
    place.mkdir()
    once = Limits(1, 0, 1, 0, 0)
    for subject in subjects.sample():
        measured.run(place, _ours(subject, place / "ours.onnx", FULL, once))
        measured.run(place, _static(subject.model, subject, place / "static.onnx", once, one_thread=True))


def _convert(place: Path, subject: subjects.Subject, limits: Limits) -> Converted:
    """Convert in every way, cheapest first in each round, and keep the lowest cost of each."""
    done = Converted(subject, {FLOAT: subject.model})
    source = _prepared_for_peer(place, done, limits)
    jobs = {
        FULL: _ours(subject, place / "full.onnx", FULL, limits),
        INT8: _ours(subject, place / "int8.onnx", INT8, limits),
        "min-max": _ours(subject, place / "minmax.onnx", FULL, limits, *_min_max()),
        STATIC: _static(source, subject, place / "static.onnx", limits, one_thread=True),
        "as shipped": _static(source, subject, place / "static2.onnx", limits, one_thread=False),
    }
    for _ in range(limits.repeats):
        for name, job in jobs.items():
            cost = measured.run(place, job)
            kept = done.costs.get(name)
            done.costs[name] = min(kept, cost, key=lambda c: c.cpu_seconds) if kept else cost
    for name, job in jobs.items():
        if done.costs[name].error:
            done.notes.append(f"{subject.name}, {name}: {done.costs[name].error}")
        elif name in (FULL, INT8, STATIC):
            done.files[name] = Path(job["arguments"][5] if "arguments" in job else job["output"])
    return done


def _ours(subject: subjects.Subject, output: Path, mode: str, limits: Limits, *more: str) -> dict:
    arguments = ["convert", str(subject.model), "--mode", mode, "-o", str(output), "--quiet", "--threads", "1"]
    samples = [] if limits.samples is None else ["--samples", str(limits.samples)]
    data = ["--representative-dataset", str(subject.dataset)]
    return {"kind": "ours", "arguments": [*arguments, *data, *samples, *more]}


def _min_max() -> list[str]:
    """Return the settings that leave of the mode what quantize_static does as well."""
    recipe = modes.resolve(FULL)
    return [word for p in REFINEMENTS if recipe.enabled(p) for word in ("--set", f"passes.{p}=off")]


def _static(source: Path, subject: subjects.Subject, output: Path, limits: Limits, *, one_thread: bool) -> dict:
    return {
        "kind": "peer", "model": str(source), "dataset": str(subject.dataset), "output": str(output),
        "samples": limits.samples, "one_thread": one_thread,
    }  # fmt: skip


def _prepared_for_peer(place: Path, done: Converted, limits: Limits) -> Path:
    """Return a model that quantize_static's output loads for: the model itself, or one with a newer opset."""
    subject = done.subject
    trial = place / "trial.onnx"
    few = Limits(1, limits.seconds, 1, 0, limits.deadline)
    if not measured.run(place, _static(subject.model, subject, trial, few, one_thread=True)).error:
        try:
            latency.session_of(trial)
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common type
            done.notes.append(f"{subject.name}: what quantize_static writes does not load: {_reason(error)}")
        else:
            return subject.model
    newer = place / "newer.onnx"
    if measured.run(place, {"kind": "opset", "model": str(subject.model), "output": str(newer)}).error:
        return subject.model
    done.notes.append(f"{subject.name}: converted to opset {peer.OPSET} for quantize_static")
    return newer


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).partition(" In Node, ")[2][:90] or type(error).__name__


def _tables(converted: list[Converted], limits: Limits) -> list[Table]:
    rows, why = [], []
    for done in converted:
        inputs = peer.input_specs(done.subject.model)
        sample = next(iter(open_dataset(done.subject.dataset, inputs, samples=1)))
        timings = latency.race(done.files, sample, seconds=limits.seconds)
        rows.append(_latency_row(done.subject.name, timings))
        why += _why(done, timings, sample)
    notes = tuple(n for done in converted for n in done.notes)
    head = (FULL, "x float", INT8, "x float", STATIC, "x float", f"{FULL} x static", f"{INT8} x static")
    speed = Table(
        "(a) latency in ms, one thread; x is how many times faster", ("model", FLOAT, *head), tuple(rows), notes
    )
    return [speed, *why, _cost_table(converted)]


def _latency_row(name: str, timings: dict[str, latency.Timing]) -> tuple[str, ...]:
    def ms(variant: str) -> str:
        return f"{timings[variant].milliseconds:.3f}" if variant in timings else "-"

    def ratio(a: str, b: str) -> str:
        return f"{timings[a].faster_than(timings[b]):.2f}" if a in timings and b in timings else "-"

    pairs = [cell for v in (FULL, INT8, STATIC) for cell in (ms(v), ratio(v, FLOAT))]
    return name, ms(FLOAT), *pairs, ratio(FULL, STATIC), ratio(INT8, STATIC)


def _why(done: Converted, timings: dict[str, latency.Timing], sample: dict) -> list[Table]:
    """Return where the time goes, for a model that quantize_static makes faster than we do."""
    if STATIC not in timings:
        return []
    static = timings[STATIC]
    ours = [v for v in (FULL, INT8) if v in timings and _is_slower(timings[v], static)]
    if not ours:
        return []
    variants = [FLOAT, STATIC, *ours]
    counts = {v: kernels_used.operators(done.files[v]) for v in variants}
    spent = {v: kernels_used.microseconds(done.files[v], sample) for v in variants}
    names = sorted({op for c in counts.values() for op in c})
    rows = tuple((op, *(_cell(counts[v][op], spent[v].get(op)) for v in variants)) for op in names)
    title = f"{done.subject.name}: operators after optimization, and us in each kind"
    return [Table(title, ("operator", *variants), rows)]


def _is_slower(timing: latency.Timing, other: latency.Timing) -> bool:
    return timing.faster_than(other) < LEVEL and timing.best_faster_than(other) < LEVEL


def _cell(count: int, spent: float | None) -> str:
    return f"{count}: {spent or 0:.0f} us" if count else "-"


def _cost_table(converted: list[Converted]) -> Table:
    ways = {"min-max": "ours, min-max", STATIC: "static, 1 thread", "as shipped": "static", FULL: "ours, default"}
    header = ("model", *(f"CPU s {w}" for w in ways.values()), "min-max / static", *(f"MB {w}" for w in ways.values()))
    rows = []
    for done in converted:
        costs = [done.costs[w] for w in ways]
        a, b = done.costs["min-max"], done.costs[STATIC]
        ratio = "-" if a.error or b.error else f"{a.cpu_seconds / b.cpu_seconds:.2f}"
        cpu = ["-" if c.error else f"{c.cpu_seconds:.2f}" for c in costs]
        peak = ["-" if c.error else f"{c.peak_bytes / 1e6:.0f}" for c in costs]
        rows.append((done.subject.name, *cpu, ratio, *peak))
    return Table("(b) cost of a conversion to full-integer, whole process", header, tuple(rows))


def _memory(work: Path, limits: Limits) -> Table:
    subject = subjects.long_dataset(work, limits.many)
    place = work / "memory"
    place.mkdir()
    rows = []
    for name, settings in (("min-max", _min_max()), ("default", ())):
        costs = []
        for samples in (FEW, limits.many):
            few = Limits(samples, limits.seconds, 1, 0, limits.deadline)
            costs.append(measured.run(place, _ours(subject, place / "memory.onnx", FULL, few, *settings)))
        rows.append((name, *_memory_cells(costs)))
    header = ("conversion", f"MB with {FEW} samples", f"MB with {limits.many} samples", "difference")
    return Table(f"(c) peak memory of {subject.name}", header, tuple(rows))


def _memory_cells(costs: list[measured.Cost]) -> tuple[str, ...]:
    failed = next((c.error for c in costs if c.error), None)
    if failed is not None:
        return "-", "-", f"failed: {failed}"
    few, many = (c.peak_bytes / 1e6 for c in costs)
    return f"{few:.1f}", f"{many:.1f}", f"{100 * (many / few - 1):+.1f} %"


if __name__ == "__main__":
    sys.exit(main())
