"""What ``--json`` says of a conversion: its report, where its files are, and how long the passes took."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantcli.api import Result
    from quantcli.encodings import Json


def of(result: Result) -> dict[str, Json]:
    """Return the document of one result."""
    from quantcli import documents  # noqa: PLC0415 - help must not load onnx

    written: Mapping[str, Json] = {}
    if result.output is not None:
        encodings, report = documents.sidecars(result.output)
        weights = {"weights": str(result.weights)} if result.weights is not None else {}
        written = {"model": str(result.output), **weights, "encodings": str(encodings), "report": str(report)}
    timings: Mapping[str, Json] = dict(result.state.report.timings) if result.state else {}
    return {**result.report, "written": dict(written), "seconds": dict(timings)}
