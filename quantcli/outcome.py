"""What a conversion gives: the documents, and the files, written all together or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from quantcli import documents, files
from quantcli import encodings as schema
from quantcli.errors import QualityError, QuantError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from quantcli.encodings import Json
    from quantcli.files import Writable
    from quantcli.jobs import Job
    from quantcli.options import Options
    from quantcli.state import State


@dataclass(frozen=True, slots=True)
class Result:
    """What the conversion of one model gave.

    Attributes:
        output: The written model; None for a dry run.
        weights: The data file beside it that holds its weights; None where they are in it.
        report: The report document, as in ``<output stem>.report.json``.
        state: Everything known at the end.
        provenance: What decides the result: versions, mode, and the digests of model, data and recipe.
    """

    output: Path | None
    report: Mapping[str, Json] = field(default_factory=dict)
    state: State | None = None
    weights: Path | None = None
    provenance: Mapping[str, Json] = field(default_factory=dict)

    @property
    def encodings(self) -> Mapping[str, Json]:
        """Return the encodings document, as in ``<output stem>.encodings.json``; for a large model it is large too."""
        return documents.encodings(self.state, self.provenance) if self.state and self.output else {}


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
        contents = {path: content for _, parts in results.values() for path, content in parts.items()}
        before = [path for job in todo for path in files.superseded(job.target)]
        files.write_all(contents, [path for path in before if path not in contents])
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


def made(job: Job, state: State) -> tuple[Result, dict[Path, Writable]]:
    """Return the result of a conversion, and what to write where.

    Raises:
        UsageError: The recipe ends without a verified model.
    """
    if state.quantized is None or state.report.verification is None:
        raise UsageError(
            "the recipe ends without a verified model", hint="it needs the passes emit and verify; nothing was written"
        )
    provenance, sidecars = documents.provenance(state, job.model), documents.sidecars(job.target)
    contents = files.model_contents(documents.stamped(state, provenance), job.target, state.original)
    encodings = documents.Text(schema.to_json({}, provenance), state.quantized.params)
    before = job.model.stat().st_size + documents.external_bytes(state.original)
    report = documents.report(state, job.model, (before, sum(c.size for c in contents.values())))
    beside = files.data_file(job.target)
    result = Result(job.target, report, state, beside if beside in contents else None, provenance)
    return result, {**contents, **dict(zip(sidecars, (encodings, documents.Text(report)), strict=True))}


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
