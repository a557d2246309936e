"""Top-1 accuracy on labelled samples: the float model and the quantized one, over all samples of the dataset."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from quantcli import feeding, runtime
from quantcli.errors import DatasetError
from quantcli.report import Accuracy

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from quantcli.data import RepresentativeDataset
    from quantcli.quant import QuantParams
    from quantcli.state import State

    Arrays = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Expected:
    """What the float model says of each sample: the output that tells its class, and the classes."""

    output: str
    classes: tuple[int, ...]


def with_fitting_labels(session: runtime.Session, data: RepresentativeDataset) -> RepresentativeDataset:
    """Return a dataset whose labels the model can be held against: checked on one sample.

    Labels that are only how files lie in folders are left out where they do not fit, with a warning.

    Raises:
        DatasetError: Labels are given, and no output tells classes, or one lies beyond its scores.
    """
    try:
        _check_labels(session, data)
    except DatasetError as error:
        if not data.implied:
            raise
        return data.without_labels(f"folders are not taken for classes: {error.message}")
    return data


def _check_labels(session: runtime.Session, data: RepresentativeDataset) -> None:
    if not data.labels:
        return
    results = session.run(next(iter(data)))
    output = class_output(results)
    if output is None:
        shapes = ", ".join(f"{n!r} {list(x.shape)}" for n, x in results.items())
        raise DatasetError(
            f"{data.description} has labels, but no output is one score for each class of a sample: {shapes}",
            hint="Remove `labels:`; they serve classifiers fed with one sample at a time.",
        )
    classes, largest = results[output].size, max(data.labels)
    if results[output].dtype.kind == "f" and largest >= classes:
        raise DatasetError(
            f"{data.description} has label {largest}, expected 0 to {classes - 1}: "
            f"output {output!r} has {classes} scores",
            hint="Correct the labels; some models count a background class as 0.",
        )


def class_output(results: Arrays) -> str | None:
    """Return the first output that is a vector of scores for one sample, else the first that is one class index."""
    scores = [
        n for n, x in results.items() if x.dtype.kind == "f" and 2 <= x.size == max(x.shape) and x.shape[0] != x.size
    ]
    indices = [n for n, x in results.items() if x.dtype.kind in "iu" and x.size == 1]
    return next(iter((*scores, *indices)), None)


def class_of(scores: npt.NDArray[np.generic]) -> int:
    """Return the class that one sample's scores, or its index, tell."""
    return int(scores.argmax()) if scores.size > 1 else int(scores.item())


def expected(state: State) -> Expected | None:
    """Return the classes that the user's model finds; None for a plan, and where the dataset has no labels."""
    if state.data is None or not state.data.labels or state.report.verification is None:
        return None
    session = runtime.load(state.reference, threads=state.threads)
    output = class_output(session.run(next(iter(state.data))))
    return Expected(output, _classes(session, state.data, output, {})) if output is not None else None


def scored(state: State, floats: Expected | None) -> State:
    """Return the state with the accuracy of both models in its report.

    Args:
        state: Verified.
        floats: What ``expected`` gave for it, or for another mode of the same model and data.
    """
    if state.data is None or state.quantized is None or floats is None:
        return state
    session = runtime.load(state.quantized.model, threads=state.threads)
    found = _classes(session, state.data, floats.output, state.quantized.boundary)
    labels = state.data.classes()
    accuracy = Accuracy(floats.output, len(labels), _share(floats.classes, labels), _share(found, labels))
    return replace(state, report=replace(state.report, accuracy=accuracy))


def _classes(
    session: runtime.Session, data: RepresentativeDataset, output: str, boundary: Mapping[str, QuantParams]
) -> tuple[int, ...]:
    found = []
    for feed in data:
        result = feeding.to_floats(session.run(feeding.to_integers(feed, boundary)), boundary)[output]
        found.append(class_of(result))
    return tuple(found)


def _share(found: tuple[int, ...], labels: list[int]) -> float:
    return float(np.mean(np.equal(found, labels)))
