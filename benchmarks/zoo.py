"""Converts every model of a folder in every mode, one process each, and prints one table.

python benchmarks/zoo.py DIR [--mode MODE ...] [--only NAME ...] [--random N] [--markdown FILE]

Nodes are those that are not float; MACs are the multiply-accumulates in integers, of those of one sample.
A model is a folder in DIR with ``model.onnx`` and ``dataset.yaml``, or an ``X.onnx`` anywhere in ``DIR/edge`` with a
recorded ``X_io.npz`` beside it (arrays ``in__NAME`` and ``out__NAME``): then the recorded inputs are the dataset.
``--random N`` converts the other files in ``DIR/edge`` too, on N random samples.
If ``DIR/zoo.py`` has ``evaluate(name, path) -> {metric: value}``, it measures the float and the quantized model.
Leaves with 1 if a conversion crashed: exit code 70, a signal, a timeout or any code that is not documented.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from tables import Table

from quantcli import modes

HERE = Path(__file__).resolve().parent
EXPECTED = {0: "verified", 1: "below threshold", 2: "usage", 3: "bad input", 4: "not in this mode"}
TIMEOUT = 124  # as timeout(1) has it
HEADER = ("model", "mode", "exit", "nodes", "MACs", "size", "SQNR dB", "seconds", "float", "quantized", "reason")


@dataclass(frozen=True, slots=True)
class Subject:
    """One model with its data: a dataset spec, recorded inputs and outputs, or nothing."""

    name: str
    model: Path
    dataset: Path | None = None
    recording: Path | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one conversion ended: its exit code, what ``--json`` printed, the seconds it took."""

    code: int
    document: dict
    seconds: float
    last_words: str = ""

    @property
    def crashed(self) -> bool:
        """Tell whether it ended in a way that is not documented as an answer."""
        return self.code not in EXPECTED


@dataclass(frozen=True, slots=True)
class Bench:
    """Where things are, and what must be cut out of every printed line."""

    zoo: Path
    work: Path
    timeout: float
    random: int = 1

    def clean(self, text: str) -> str:
        """Return the text on one line, without the folders of this machine."""
        for folder in (self.work, self.zoo, HERE.parent, Path(sys.prefix), Path.home()):
            text = text.replace(f"{folder}/", "").replace(str(folder), "")
        return " ".join(text.split())


def main() -> int:
    asked = _arguments()
    zoo = asked.zoo.resolve()
    if not zoo.is_dir():
        print("no such folder", file=sys.stderr)
        return 2
    known = [*_models(zoo), *_edges(zoo, unrecorded=asked.random > 0)]
    chosen = [s for s in known if not asked.only or s.name in asked.only]
    if not chosen:
        print("no model found: expected folders with model.onnx and dataset.yaml", file=sys.stderr)
        return 2
    with TemporaryDirectory() as folder:
        bench = Bench(zoo, Path(folder).resolve(), asked.timeout, asked.random)
        rows, outcomes = [], []
        for subject in chosen:
            floats = _metrics(bench, subject, subject.model)
            for mode in asked.mode or (*modes.names(), "16x8 --fallback float"):
                print(f"{subject.name} {mode} ...", file=sys.stderr, flush=True)
                outcome, metrics = _run(bench, subject, mode)
                outcomes.append(outcome)
                rows.append(_row(bench, subject.name, mode, (outcome, floats, metrics)))
    table = Table("zoo", HEADER, tuple(rows), (_verdict(outcomes),))
    print(table.plain())
    if asked.markdown:
        asked.markdown.write_text(table.markdown(), "utf-8")
    return int(any(o.crashed for o in outcomes))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("zoo", type=Path, metavar="DIR")
    parser.add_argument(
        "--mode",
        action="append",
        metavar="MODE",
        help="default: every mode that ships; may hold options of quant convert behind its name",
    )
    parser.add_argument("--only", action="append", metavar="NAME", help="only this model; repeatable")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="samples for edge files without a recording")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there as well")
    parser.add_argument("--timeout", type=float, default=600, metavar="S", help="seconds for one conversion")
    return parser.parse_args()


def _models(zoo: Path) -> list[Subject]:
    folders = sorted(f for f in zoo.iterdir() if (f / "model.onnx").is_file() and (f / "dataset.yaml").is_file())
    return [Subject(f.name, f / "model.onnx", f / "dataset.yaml") for f in folders]


def _edges(zoo: Path, *, unrecorded: bool) -> list[Subject]:
    found = []
    for model in sorted((zoo / "edge").rglob("*.onnx")):
        recording = model.with_name(f"{model.stem}_io.npz")
        recorded = recording.is_file()
        if recorded or unrecorded:
            name = str(model.relative_to(zoo).with_suffix(""))
            found.append(Subject(name, model, recording=recording if recorded else None))
    return found


def _run(bench: Bench, subject: Subject, mode: str) -> tuple[Outcome, dict]:
    with TemporaryDirectory(dir=bench.work) as folder:
        output = Path(folder) / "quantized.onnx"
        outcome = _converted(bench, subject, mode, output)
        return outcome, _metrics(bench, subject, output) if outcome.code == 0 else {}


def _converted(bench: Bench, subject: Subject, mode: str, output: Path) -> Outcome:
    command = ["convert", str(subject.model), "--mode", *mode.split(), *_data(bench, subject, output.parent)]
    began = time.perf_counter()
    code, said, complaint = _quant([*command, "-o", str(output), "--json"], bench.timeout)
    seconds = time.perf_counter() - began
    try:
        document = json.loads(said)
    except ValueError:
        document = {}
    return Outcome(code, document, seconds, complaint.strip().rpartition("\n")[2])


def _data(bench: Bench, subject: Subject, folder: Path) -> list[str]:
    if subject.dataset is not None:
        return ["--representative-dataset", str(subject.dataset)]
    if subject.recording is None:
        return ["--random-data", str(bench.random)]
    feeds = folder / "feeds"
    feeds.mkdir()
    _write_feed(subject.recording, feeds / "0.npz")
    return ["--representative-dataset", str(feeds)]


def _quant(arguments: list[str], timeout: float) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "quantcli", *arguments]
    try:
        cold = {**os.environ, "QUANT_CACHE_DIR": ""}
        done = subprocess.run(command, capture_output=True, timeout=timeout, check=False, env=cold)
    except subprocess.TimeoutExpired:
        return TIMEOUT, "", f"not done after {timeout:g} s"
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def _write_feed(recording: Path, feed: Path) -> None:
    """Write the recorded inputs under their own names, whatever characters those have."""
    with np.load(recording, allow_pickle=False) as arrays, zipfile.ZipFile(feed, "w") as archive:
        for key in arrays.files:
            if key.startswith("in__"):
                with archive.open(f"{key.removeprefix('in__')}.npy", "w") as file:
                    np.lib.format.write_array(file, arrays[key], allow_pickle=False)


def _metrics(bench: Bench, subject: Subject, model: Path) -> dict:
    """Return what the reference evaluation says of a file, ``{"failed": why}``, or nothing where there is none."""
    script = bench.zoo / "zoo.py"
    if subject.recording is not None:
        arguments = ["recorded", str(subject.recording), str(model)]
    elif subject.dataset is not None and script.is_file():
        arguments = ["reference", str(script), subject.name, str(model)]
    else:
        return {}
    command = [sys.executable, str(HERE / "evaluate.py"), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=bench.timeout, check=True)
        return json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        words = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip()
        return {"failed": bench.clean(words.rpartition("\n")[2] or type(error).__name__)}


def _row(bench: Bench, name: str, mode: str, results: tuple[Outcome, dict, dict]) -> tuple[str, ...]:
    outcome, floats, metrics = results
    d = outcome.document
    reached = outcome.code == 0
    return (
        name,
        mode,
        str(outcome.code),
        _coverage(d["coverage"]) if reached else "-",
        f"{d['work']['integer_share']:.0%}" if reached and d["work"] else "-",
        f"{d['sizes']['ratio']:.2f}" if reached else "-",
        _worst(d["verification"]["outputs"]) if reached else "-",
        f"{outcome.seconds:.1f}",
        _shown(floats),
        _shown(metrics) if reached else "-",
        bench.clean(_reason(outcome)),
    )


def _coverage(coverage: dict[str, int]) -> str:
    nodes = sum(coverage.values())
    return f"{nodes - coverage.get('float', 0)}/{nodes}"


def _worst(outputs: dict[str, dict]) -> str:
    found = [q["sqnr_db"] for q in outputs.values()]
    figures = [f for f in found if f is not None]
    return f"{min(figures):.1f}" if figures else "exact" if found else "-"


def _shown(metrics: dict) -> str:
    if "failed" in metrics:
        return f"failed: {metrics['failed']}"[:80]
    return ", ".join(f"{k} {'exact' if v is None else f'{v:.4g}'}" for k, v in metrics.items()) or "-"


def _reason(outcome: Outcome) -> str:
    if outcome.code == 0:
        floats = Counter(e["op_type"] for e in outcome.document["ledger"] if e["fate"] == "float")
        return "float: " + ", ".join(f"{n} {op}" for op, n in sorted(floats.items())) if floats else ""
    error = outcome.document.get("error")
    if error is None:
        return outcome.last_words or f"ended by signal {-outcome.code}"
    reasons = error["reasons"]
    more = f" ({len(reasons)} reasons, first: {reasons[0]})" if reasons else ""
    return f"{error['message']}{more}"


def _verdict(outcomes: list[Outcome]) -> str:
    counted = Counter(EXPECTED.get(o.code, "crashed") for o in outcomes)
    return ", ".join(f"{counted[k]} {k}" for k in (*EXPECTED.values(), "crashed") if counted[k])


if __name__ == "__main__":
    sys.exit(main())
