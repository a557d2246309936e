"""Do ranges that were chosen tensor by tensor serve the model together?

The float model is run with all of the tensors rounded to their grids at once: errors of ranges that cut off point the
same way, and add up where those of rounding cancel. No result may lose, neither in the sum of squared errors nor in the
sum of their squares: what is cut off may be all that a rare thing shows by, such as a face.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quantcli import graph, runtime
from quantcli.chain_trial import insert_rounding
from quantcli.metrics import Comparison

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.quant import QuantParams

Site = tuple[list[str], tuple["QuantParams", ...]]  # tensors that share a grid, and the grids it could be
PROOF: Final = 40  # one run in so many of those that the trials take, for each sample of the proof


def together(
    model: ir.Model,
    sites: Sequence[Site],
    choices: Sequence[Mapping[int, int]],
    samples: Iterable[Mapping[str, npt.NDArray[np.generic]]],
    threads: int,
) -> dict[int, int]:
    """Return the first of several choices with which no result is further from float than with none.

    Where there is no such choice, what was seen of single tensors is no evidence for any of them: nothing is returned.

    Args:
        model: The float model.
        sites: What is rounded.
        choices: By place of a site, number of the grid where it is not the first.
        samples: To run it on.
        threads: Of onnxruntime.
    """
    choices = [c for i, c in enumerate(choices) if c and c not in choices[:i]]
    if not choices:
        return {}
    feeds = list(samples)
    session = runtime.load(model, threads=threads)
    floats = [o.name for o in session.outputs if o.is_float32]
    expected = [{n: array for n, array in session.run(feed).items() if n in floats} for feed in feeds]

    def errors(numbers: Mapping[int, int]) -> list[float]:
        rounded = runtime.load(_rounded(model, sites, numbers), threads=threads)
        total = {n: Comparison() for n in floats}
        for feed, real in zip(feeds, expected, strict=True):
            found = rounded.run(feed)
            total = {n: c.add(real[n], found[n]) for n, c in total.items()}
        return [power for c in total.values() for power in (c.noise, c.fourth)]

    first = errors({})
    for choice in choices:
        if all(chosen <= least for chosen, least in zip(errors(choice), first, strict=True)):
            return dict(choice)
    return {}


def _rounded(model: ir.Model, sites: Sequence[Site], numbers: Mapping[int, int]) -> ir.Model:
    """Return the model with every site on one of its grids."""
    changed = model.clone()
    names, values = graph.Names(changed), graph.named_values(changed.graph)
    for place, (tensors, grids) in enumerate(sites):
        for tensor in tensors:
            insert_rounding(changed.graph, values[tensor], grids[numbers.get(place, 0)], names)
    return changed
