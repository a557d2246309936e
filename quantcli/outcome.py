"""What a conversion gives: the documents, and the files, written all together or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from quantcli import documents, files
from quantcli.errors import QualityError, QuantError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from quantcli.encodings import Json
    from quantcli.jobs import Job
    from quantcli.options import Options
    from quantcli.state import State


@dataclass(frozen=True, slots=True)
class Result:
    """What the conversion of one model gave.

    Attributes:
        output: The written model; None for a dry run.
        encodings: The encodings document, as in ``<output stem>.encodings.json``.
        report: The report document, as in ``<output stem>.report.json``.
        state: Everything known at the end.
    """

    output: Path | None
    encodings: Mapping[str, Json] = field(default_factory=dict)
    report: Mapping[str, Json] = field(default_factory=dict)
    state: State | None = None


def settled(todo: Sequence[Job], states: Mapping[str, State], asked: Options) -> dict[str, Result]:
    """Write what the passes gave, unless it is a dry run; return the results by signature.

    Raises:
        QualityError: The worst output of one is below ``min_sqnr``; written only where the user keeps it.
        OutputError: A file cannot be written; none is.
    """
    if asked.dry_run:
        return {
            job.signature: Result(None, report=documents.report(state, job.model, None), state=state)
            for job in todo
            for state in (states[job.signature],)
        }
    results = {job.signature: made(job, states[job.signature]) for job in todo}
    failed = next((f for job in todo if (f := failure(job, states[job.signature], asked)) is not None), None)
    if failed is None or asked.keep:
        files.write_all({path: content for _, contents in results.values() for path, content in contents.items()})
    if failed is not None:
        raise failed
    return {name: result for name, (result, _) in results.items()}


def settled_apart(
    todo: Mapping[str, Job], states: Mapping[str, State], asked: Options
) -> dict[str, Result | QuantError]:
    """Write, all together, what is good enough; return results and failures by mode.

    Raises:
        OutputError: A file cannot be written; none is.
    """
    found = {} if asked.dry_run else {n: failure(job, states[n], asked) for n, job in todo.items()}
    failed = {n: f for n, f in found.items() if f is not None}
    fine = [replace(job, signature=n) for n, job in todo.items() if n not in failed]
    return {**failed, **settled(fine, states, asked)}


def made(job: Job, state: State) -> tuple[Result, dict[Path, bytes]]:
    """Return the result of a conversion, and what to write where.

    Raises:
        UsageError: The recipe ends without a verified model.
    """
    if state.quantized is None or state.report.verification is None:
        raise UsageError(
            "the recipe ends without a verified model", hint="it needs the passes emit and verify; nothing was written"
        )
    provenance = documents.provenance(state, job.model)
    model = files.model_bytes(documents.stamped(state, provenance))
    encodings = documents.encodings(state, provenance)
    sizes = (job.model.stat().st_size + documents.external_bytes(state.original), len(model))
    report = documents.report(state, job.model, sizes)
    texts = [documents.text(d).encode() for d in (encodings, report)]
    contents = dict(zip((job.target, *documents.sidecars(job.target)), (model, *texts), strict=True))
    return Result(job.target, encodings, report, state), contents


def failure(job: Job, state: State, asked: Options) -> QualityError | None:
    """Return the error where the worst output is below ``min_sqnr``, or None."""
    seen = state.report.verification
    low = min((q.sqnr_db for q in seen.outputs.values()), default=float("inf")) if seen is not None else float("inf")
    if asked.min_sqnr is None or low >= asked.min_sqnr:
        return None
    kept = f"; written as asked by --keep: {job.target}" if asked.keep else "; nothing was written"
    whose = f"signature {job.signature!r}: " if job.signature else ""
    return QualityError(
        f"{whose}worst output has {low:.2f} dB, below --min-sqnr {asked.min_sqnr:g}{kept}",
        hint="see quant convert --dry-run; try more samples, --float PATTERN for sensitive nodes, or a wider mode",
    )
