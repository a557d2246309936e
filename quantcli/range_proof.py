"""Do ranges that were chosen tensor by tensor serve the model together?

The float model is run with all of the tensors rounded to their grids at once: errors of ranges that cut off point the
same way, and add up where those of rounding cancel.
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
    choice: Mapping[int, int],
    samples: Iterable[Mapping[str, npt.NDArray[np.generic]]],
    threads: int,
) -> dict[int, int]:
    """Return the choice, or nothing where the results are further from float with all of it than with none.

    Then what was seen of single tensors is no evidence for any of them.

    Args:
        model: The float model.
        sites: What is rounded.
        choice: By place of a site, number of the grid where it is not the first.
        samples: To run it on.
        threads: Of onnxruntime.
    """
    if not choice:
        return {}
    feeds = list(samples)
    session = runtime.load(model, threads=threads)
    floats = [o.name for o in session.outputs if o.is_float32]
    expected = [{n: array for n, array in session.run(feed).items() if n in floats} for feed in feeds]

    def noise(numbers: Mapping[int, int]) -> float:
        rounded = runtime.load(_rounded(model, sites, numbers), threads=threads)
        total = {n: Comparison() for n in floats}
        for feed, real in zip(feeds, expected, strict=True):
            found = rounded.run(feed)
            total = {n: c.add(real[n], found[n]) for n, c in total.items()}
        return sum(c.noise / c.signal if c.signal else c.noise for c in total.values())

    return dict(choice) if noise(choice) <= noise({}) else {}


def _rounded(model: ir.Model, sites: Sequence[Site], numbers: Mapping[int, int]) -> ir.Model:
    """Return the model with every site on one of its grids."""
    changed = model.clone()
    names, values = graph.Names(changed), graph.named_values(changed.graph)
    for place, (tensors, grids) in enumerate(sites):
        for tensor in tensors:
            insert_rounding(changed.graph, values[tensor], grids[numbers.get(place, 0)], names)
    return changed
