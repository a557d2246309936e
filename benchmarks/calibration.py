"""Measures calibration alone, against onnxruntime's own calibrators on the same samples.

python benchmarks/calibration.py [--samples N] [--repeat N]

Each run is a fresh process that loads the model, feeds the samples and ends with the ranges; the runs of both tools
take turns, and the lowest CPU time of each counts. Ours also prepares the model as a conversion does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import generated
import measured
from tables import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}  # ours and onnxruntime's
OWN = ("moving-average", "mse", "sqnr")
ASKED = {"minmax": (0.8, 0.9), "percentile": (0.25, 0.10), "entropy": (0.25, 0.10)}  # CPU time and memory over theirs
SIZE, SMALL = 192, 96
FEW, MANY = 10, 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=int, default=100, metavar="N", help="samples of each run (default 100)")
    parser.add_argument("--repeat", type=int, default=2, metavar="N", help="runs of each; the lowest counts")
    asked = parser.parse_args()
    with TemporaryDirectory() as folder:
        for table in tables(Path(folder), samples=asked.samples, repeats=asked.repeat):
            print(table.plain(), flush=True)
    return 0


def tables(work: Path, *, samples: int, repeats: int, many: int = MANY) -> Iterator[Table]:
    """Yield the costs of both tools, and the memory of ours with few and with many samples."""
    yield _costs(work, samples, repeats)
    yield _memory(work, many)


def _costs(work: Path, samples: int, repeats: int) -> Table:
    model, dataset = generated.write(work / "calibrated", generated.mobilenet_v2(SIZE), size=SIZE, samples=samples)
    job = {"model": str(model), "dataset": str(dataset), "samples": samples}
    jobs = {("ours", name): {"kind": "calibrate", "method": name, **job} for name in (*METHODS, *OWN)}
    jobs |= {("theirs", name): {"kind": "peer_calibrate", "method": m, **job} for name, m in METHODS.items()}
    place = work / "costs"
    place.mkdir()
    found: dict[tuple[str, str], measured.Cost] = {}
    for _ in range(repeats):
        for key, each in jobs.items():
            cost = measured.run(place, each)
            found[key] = min(found.get(key, cost), cost, key=lambda c: (bool(c.error), c.cpu_seconds))
    rows = [_row(name, found) for name in (*METHODS, *OWN)]
    header = ("method", "CPU s", "x min-max", "onnxruntime", "ratio", "asked", "MB", "onnxruntime", "ratio", "asked")
    notes = tuple(f"{tool}, {name}: {c.error}" for (tool, name), c in found.items() if c.error)
    return Table(f"(d) calibration on {samples} samples, {SIZE} x {SIZE}, whole process", header, tuple(rows), notes)


def _row(name: str, found: dict[tuple[str, str], measured.Cost]) -> tuple[str, ...]:
    ours, theirs, least = found["ours", name], found.get(("theirs", name)), found["ours", "minmax"]
    known = theirs is not None and not theirs.error
    cpu, memory = (f"<= {x}" for x in ASKED[name]) if name in ASKED else ("-", "-")
    return (
        name,
        f"{ours.cpu_seconds:.2f}",
        f"{ours.cpu_seconds / least.cpu_seconds:.2f}" if least.cpu_seconds else "-",
        f"{theirs.cpu_seconds:.2f}" if known else "-",
        f"{ours.cpu_seconds / theirs.cpu_seconds:.2f}" if known else "-",
        cpu,
        f"{ours.peak_bytes / 1e6:.0f}",
        f"{theirs.peak_bytes / 1e6:.0f}" if known else "-",
        f"{ours.peak_bytes / theirs.peak_bytes:.2f}" if known else "-",
        memory,
    )


def _memory(work: Path, many: int) -> Table:
    model, dataset = generated.write(work / "counted", generated.mobilenet_v2(SMALL), size=SMALL, samples=many)
    place, rows = work / "flat", []
    place.mkdir()
    for name in ("minmax", "percentile", "entropy"):
        job = {"kind": "calibrate", "method": name, "model": str(model), "dataset": str(dataset)}
        few, more = (measured.run(place, {**job, "samples": n}) for n in (FEW, many))
        failed = few.error or more.error
        a, b = few.peak_bytes / 1e6, more.peak_bytes / 1e6
        rows.append((name, f"{a:.1f}", f"{b:.1f}", failed or f"{100 * (b / a - 1):+.1f} %"))
    header = ("method", f"MB with {FEW} samples", f"MB with {many} samples", "difference")
    return Table(f"(e) peak memory of calibration, {SMALL} x {SMALL}", header, tuple(rows))


if __name__ == "__main__":
    sys.exit(main())
