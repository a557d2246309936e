"""Compares methods of calibration: the range that each chooses for each tensor, and what the model keeps with them.

Every method goes through the passes of a mode, with weights rounded to nearest: nothing but the ranges differs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import affine, execution, foreign, graph, jobs, modes, plugins, runtime
from quantcli.errors import UsageError
from quantcli.metrics import Comparison
from quantcli.options import Options, resolved

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from quantcli.jobs import DataSource
    from quantcli.quant import QuantParams
    from quantcli.recipe import Recipe
    from quantcli.state import State

SAMPLES: Final = 32
_MODE: Final = "full-integer"
_CALIBRATES: Final = "calibrate"
_AFTERWARDS: Final = ("gptq", "bias_correction", "adaround", "seq_mse")  # what makes up for ranges by other means
_ELEMENTS: Final = 1 << 16  # of each tensor and sample, evenly spread, that its own SQNR is taken of


@dataclass(frozen=True, slots=True)
class Chosen:
    """The range of a tensor by one method, and the SQNR of the tensor rounded to it, in dB."""

    low: float
    high: float
    sqnr_db: float


@dataclass(frozen=True, slots=True)
class RangeMethods:
    """The comparison.

    Attributes:
        tensors: By tensor, then method.
        outputs: SQNR of each float output of the quantized model in dB, by output, then method.
        samples: How many were seen.
    """

    tensors: Mapping[str, Mapping[str, Chosen]]
    outputs: Mapping[str, Mapping[str, float]]
    samples: int


def compare(
    model: str | Path | None = None,
    *,
    representative_dataset: DataSource | None = None,
    samples: int = SAMPLES,
    options: Options | None = None,
) -> RangeMethods:
    """Compare all methods on a model.

    Args:
        model: The float model; None is the bundled sample.
        representative_dataset: As ``convert`` takes it.
        samples: At most this many are seen.
        options: Threads, and libraries of custom operators.

    Raises:
        UsageError: There are no samples.
        QuantError: The model or the data are wrong.
    """
    sample, source = modes.sample_folder(), representative_dataset
    if model is None:
        source = sample / "dataset.yaml" if source is None else source
    if source is None:
        raise UsageError("ranges are chosen by samples", hint="give --representative-dataset SPEC")
    path = Path(model) if model is not None else sample / "digits.onnx"
    asked = replace(options or Options(), cache=False, samples=samples)
    names = dict.fromkeys([*plugins.CALIBRATORS, *foreign.offered(foreign.CALIBRATORS)])
    recipes = {name: _recipe(name) for name in names}
    job = jobs.Job(path, path, source)
    original = jobs.loaded(job, replace(asked, dry_run=True))
    state = jobs.begun(job, original, next(iter(recipes.values())), asked)
    begun = [p.name for p in plugins.passes_of(state.recipe)].index(_CALIBRATES)
    state = execution.passed(state, plugins.passes_of(state.recipe)[:begun], ())
    ended = {
        name: execution.passed(replace(state, recipe=recipe), plugins.passes_of(recipe)[begun:], ())
        for name, recipe in recipes.items()
    }
    return RangeMethods(_tensors(state, ended), _outputs(ended), len(state.data or ()))


def _recipe(method: str) -> Recipe:
    plain = resolved(_MODE, Options(calibrator=method))
    off = tuple(f"passes.{name}=off" for name in _AFTERWARDS if plain.enabled(name))
    return resolved(_MODE, Options(calibrator=method, settings=off))


def _tensors(state: State, ended: Mapping[str, State]) -> dict[str, dict[str, Chosen]]:
    values = graph.named_values(state.model.graph)
    grids: dict[str, dict[str, QuantParams]] = {}
    for method, end in ended.items():
        for tensor, params in end.encodings.tensors.items():
            if tensor in values and not graph.is_constant(values[tensor]):
                grids.setdefault(tensor, {})[method] = params
    computed = [n for n in grids if values[n].producer() is not None]
    session = runtime.load(state.model, threads=state.threads, outputs=computed) if computed else None
    total = {(n, m): Comparison() for n, by in grids.items() for m in by}
    for feed in state.data or ():
        found = {**feed, **(session.run(feed) if session is not None else {})}
        for tensor, by in grids.items():
            some = _spread(np.asarray(found[tensor], np.float32))
            for method, params in by.items():
                total[tensor, method] = total[tensor, method].add(some, affine.fake_quantize(some, params))
    return {
        n: {m: Chosen(p.low, p.high, total[n, m].sqnr_db) for m, p in grids[n].items()} for n in values if n in grids
    }


def _spread(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    flat: npt.NDArray[np.float32] = array[np.isfinite(array)]
    return flat if flat.size <= _ELEMENTS else flat[np.arange(_ELEMENTS) * flat.size // _ELEMENTS]


def _outputs(ended: Mapping[str, State]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for method, state in ended.items():
        verified = state.report.verification
        for name, quality in verified.outputs.items() if verified is not None else ():
            found.setdefault(name, {})[method] = quality.sqnr_db
    return found
