"""What each pass is worth: every model converted with all passes of its recipe, and once without each of them.

python benchmarks/passes.py DIR [--mode MODE] [--only NAME ...] [--pass NAME ...] [--add NAME ...] [--markdown FILE]

A model is a folder in DIR with ``model.onnx`` and ``dataset.yaml``. The figure is the mean signal-to-noise ratio of the
outputs as the report has it, in dB; under a pass stands what it adds. ``--add`` names passes that the recipe has not:
they are added before ``make_plan`` or, where they need the quantized model, behind ``emit``. CPU seconds are of the
whole process, and of one with plain min-max ranges and nearest rounding. Leaves with 1 where a pass costs more than
0.1 dB.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import measured
import subjects
import yaml
from tables import Table

from quantcli import modes, plugins
from quantcli.recipe import Step

OPTIONAL = ("equalize", "expand_prelu", "pointwise_products", "choose_dynamic", "gptq", "bias_correction")
REFINEMENTS = ("equalize", "gptq", "bias_correction")  # what a plain min-max conversion has not
TOLERATED_DB = 0.1
EXACT_DB = 200.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One conversion: mean SQNR of its outputs and the CPU seconds of its process, or why there is none."""

    sqnr_db: float = 0.0
    cpu_seconds: float = 0.0
    error: str = ""


def main() -> int:
    asked = _arguments()
    if not asked.zoo.is_dir():
        print("no such folder", file=sys.stderr)
        return 2
    chosen = [s for s in subjects.of_zoo(asked.zoo) if not asked.only or s.name in asked.only]
    steps = [step.name for step in modes.resolve(asked.mode, None, ()).passes]
    without = [n for n in (asked.without or OPTIONAL) if n in steps]
    rows, costly = [], []
    with TemporaryDirectory() as folder:
        work = Path(folder)
        for subject in chosen:
            print(f"{subject.name} ...", file=sys.stderr, flush=True)
            worth, row = _row(work, subject, asked.mode, without, asked.add)
            rows.append(row)
            costly += [f"{subject.name}: {n} costs {-db:.2f} dB" for n, db in worth.items() if db < -TOLERATED_DB]
    header = ("model", "SQNR dB", *without, *(f"+{n}" for n in asked.add), "CPU s", "plain CPU s", "ratio")
    table = Table(f"what passes add, {asked.mode}", header, tuple(rows), tuple(costly))
    print(table.plain())
    if asked.markdown:
        asked.markdown.write_text(table.markdown(), "utf-8")
    return int(bool(costly))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("zoo", type=Path, metavar="DIR")
    parser.add_argument("--mode", default="full-integer")
    parser.add_argument("--only", action="append", metavar="NAME", help="only this model; repeatable")
    parser.add_argument("--pass", action="append", dest="without", metavar="NAME", help="only this pass; repeatable")
    parser.add_argument("--add", action="append", default=[], metavar="NAME", help="a pass that the recipe has not")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there as well")
    return parser.parse_args()


def _row(
    work: Path, subject: subjects.Subject, mode: str, without: list[str], added: list[str]
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return what each pass adds in dB, and the line of the table."""
    base = _converted(work, subject, mode)
    plain = _converted(work, subject, mode, *(f"passes.{n}=off" for n in REFINEMENTS))
    changes = {n: (base, _converted(work, subject, mode, f"passes.{n}=off")) for n in without}
    changes |= {f"+{n}": (_converted(work, subject, mode, recipe=_with(work, mode, n)), base) for n in added}
    worth = {n: a.sqnr_db - b.sqnr_db for n, (a, b) in changes.items() if not (a.error or b.error)}
    cells = [f"{worth[n]:+.2f}" if n in worth else (a.error or b.error)[:30] for n, (a, b) in changes.items()]
    ratio = f"{base.cpu_seconds / plain.cpu_seconds:.1f}" if plain.cpu_seconds else "-"
    shown = base.error[:30] or f"{base.sqnr_db:.2f}"
    return worth, (subject.name, shown, *cells, f"{base.cpu_seconds:.1f}", f"{plain.cpu_seconds:.1f}", ratio)


def _with(work: Path, mode: str, name: str) -> Path:
    """Write the recipe of a mode with one pass more."""
    resolved = modes.resolve(mode, None, ())
    recipe = yaml.safe_load(resolved.dump())
    names = [next(iter(step)) for step in recipe["passes"]]
    alone = plugins.passes_of(replace(resolved, passes=(Step(name),)))[0].run
    late = "quantized" in alone.needs
    recipe["passes"].insert(names.index("emit") + 1 if late else names.index("make_plan"), {name: {}})
    path = work / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), "utf-8")
    return path


def _converted(work: Path, subject: subjects.Subject, mode: str, *settings: str, recipe: Path | None = None) -> Outcome:
    output = work / "quantized.onnx"
    arguments = ["convert", str(subject.model), "--representative-dataset", str(subject.dataset), "-o", str(output)]
    arguments += ["--recipe", str(recipe)] if recipe else ["--mode", mode]
    arguments += ["--no-cache", "--quiet", *(word for s in settings for word in ("--set", s))]
    cost = measured.run(work, {"kind": "ours", "arguments": arguments})
    if cost.error:
        return Outcome(error=cost.error)
    report = json.loads(output.with_suffix(".report.json").read_text("utf-8"))
    found = [q["sqnr_db"] for q in report["verification"]["outputs"].values()]
    return Outcome(fmean(EXACT_DB if f is None else min(f, EXACT_DB) for f in found), cost.cpu_seconds)


if __name__ == "__main__":
    sys.exit(main())
