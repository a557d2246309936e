"""Converts random models in every mode and checks the laws; prints and keeps the smallest model of each failure.

python tests/fuzz/fuzz.py --graphs 2000 --seed 0 --out build/fuzz
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from attempts import Tally, broken, complaints, forms, together
from onnx import printer
from random_models import cases
from reducing import reduced

from quantcli import modes

if TYPE_CHECKING:
    from attempts import Complaint
    from random_models import Case

SHOWN = 2500  # characters of a model


def main() -> int:
    """Run; 1 where a law was broken."""
    asked = _arguments()
    asked.out.mkdir(parents=True, exist_ok=True)
    modes.mappings = functools.cache(modes.mappings)  # the same files are read again for each conversion
    tally, seen, began = Tally(), dict[str, int](), time.monotonic()
    for done, case in enumerate(itertools.islice(cases(asked.seed), asked.graphs), 1):
        for complaint in broken(case, forms()[done % asked.part :: asked.part], tally):
            seen[complaint.kind] = seen.get(complaint.kind, 0) + 1
            if seen[complaint.kind] == 1:
                _report(case, complaint, asked.out / f"{len(seen):03d}-{case.seed}")
        if done % asked.every == 0 or done == asked.graphs:
            rate = done / (time.monotonic() - began)
            _say(
                f"{done} graphs (seed {case.seed}), {tally.converted} converted, {tally.refused} refused, "
                  f"{len(seen)} kinds of failure, {rate:.2f} graphs/s"
            )  # fmt: skip
    for kind, count in sorted((tally.reasons or {}).items(), key=lambda item: -item[1]):
        _say(f"{count:6} refused: {kind}")
    for kind, count in sorted(seen.items(), key=lambda item: -item[1]):
        _say(f"{count:6} FAILED: {kind}")
    return int(bool(seen))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the first graph; the others follow")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--part", type=int, default=1, help="of the forms for each graph: 3 is a third, in turns")
    parser.add_argument("--every", type=int, default=25, help="graphs between lines of progress")
    return parser.parse_args()


def _report(case: Case, complaint: Complaint, stem: Path) -> None:
    """Print and keep the smallest case that breaks the same law in the same way."""

    def again(c: Case) -> list[Complaint]:
        of_one = complaint.form in forms()
        return [x for x in (complaints(c, complaint.form) if of_one else together(c)) if x.kind == complaint.kind]

    small = reduced(case, lambda c: bool(again(c)))
    now = next(iter(again(small)), complaint)
    onnx.save(small.model, stem.with_suffix(".onnx"))
    feeds = {f"{i}:{n}": x for i, feed in enumerate(small.feeds) for n, x in feed.items()}
    with contextlib.suppress(ValueError, OSError):  # a name that no archive can hold
        np.savez(stem.with_suffix(".npz"), **feeds)
    text = (
        f"seed {case.seed} {now}\n{printer.to_text(small.model)[:SHOWN]}\nfirst sample: {str(small.feeds[0])[:600]}\n"
    )
    stem.with_suffix(".txt").write_text(text)
    _say(f"\n{text}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
