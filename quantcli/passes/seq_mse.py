"""Clips weights where that lowers the error of their operator's output: smaller steps for all but the largest ones.

Between the choice of parameters and the emitted model: what is emitted, biases and requantization included, is built on
the new scales. A row, or a tensor with one scale, keeps the old one unless its error on quantized inputs falls.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from quantcli import affine, graph, portability
from quantcli.bias_room import bias_limit, scale_floor
from quantcli.encodings import Encodings
from quantcli.moments import arranged, moments_of, rows_of_each
from quantcli.reconstruction import sample_count
from quantcli.seq_mse import best_shares, by_gptq, by_nearest
from quantcli.spool import spool_all
from quantcli.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.moments import Moments
    from quantcli.plan import Unit
    from quantcli.quant import QuantParams
    from quantcli.spool import Spool
    from quantcli.state import State, Tick

    Floats = npt.NDArray[np.float64]

_SECOND_ORDER: Final = ("gptq", "adaround")  # passes that round a weight for its inputs
_TAKE_MEAN: Final = (*_SECOND_ORDER, "bias_correction")  # passes that take the shift of the mean into the bias


@dataclass(frozen=True, slots=True)
class SeqMse:
    """Chooses the scales of weights by output error, on second moments of the quantized inputs of each operator.

    Attributes:
        samples: At least this many samples, spread over the dataset; more for small models.
        rows: At most this many rows of inputs per operator, over all samples; at least four times its inputs are taken.
        largest: Operators with more inputs per output than this keep their scales; their Gram matrix is too large.
        candidates: Shares of the range that are tried: 1/candidates, 2/candidates and so on up to all of it.
    """

    samples: int = 32
    rows: int = 16384
    largest: int = 4608
    candidates: int = 20
    needs: ClassVar[frozenset[str]] = frozenset({"plan", "encodings", "data"})
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Replace the parameters of weights."""
        units = _changeable(state)
        if not units or state.data is None:
            return state
        used = sample_count(state, self.samples)
        edges, kept = dict(state.encodings.edges), 0
        for done, (unit, node, inputs) in enumerate(_inputs(state, units, used), 1):
            params = self._chosen(state, unit, node, inputs, used)
            if params is not None:
                edges[unit.node, 1], kept = params, kept + 1
            tick(done, len(units))
        note = f"weights clipped by output error on {used} samples, in {kept} of {len(units)} layers"
        return replace(state, encodings=Encodings(state.encodings.tensors, edges)).noted(notes=(note,))

    def _chosen(self, state: State, unit: Unit, node: ir.Node, inputs: Spool, samples: int) -> QuantParams | None:
        """Return other parameters for the weight of ``unit``, or None where its own are best."""
        weight = graph.real_constant(graph.named_values(state.model.graph)[unit.weight or ""])
        old, source = state.encodings.edges[unit.node, 1], state.encodings.tensors[unit.inputs[0][1]]
        real = arranged(weight.astype(np.float64), unit.axis, node) if weight is not None else np.zeros((1, 1, 0))
        if weight is None or not 0 < real.shape[2] <= self.largest:
            return None
        integers = (affine.quantize(x.astype(np.float32), source) for x in inputs)
        most = rows_of_each(self.rows, real.shape[2], samples)
        moments, *_ = moments_of(integers, inputs, source, node, weight.shape[2:], most)
        shares = self._shares(state, real, old, moments)
        scale = (old.scale * shares.reshape(-1)[: max(old.scale.size, 1)].reshape(old.scale.shape)).astype(np.float32)
        least = scale_floor(_bias(state, unit), source.scale, weight.shape[unit.axis], bias_limit(state.recipe))
        floor = least if old.scale.ndim else least.max()
        scale = np.where(scale >= floor, scale, old.scale)
        return None if np.array_equal(scale, old.scale) else affine.with_scale(old, scale)

    def _shares(self, state: State, real: Floats, params: QuantParams, moments: Moments) -> Floats:
        enabled = [p for p in _TAKE_MEAN if state.recipe.enabled(p)]
        later = by_gptq if set(enabled) & set(_SECOND_ORDER) else by_nearest
        shares = (
            np.arange(self.candidates, 0, -1) / self.candidates
        )  # the whole range first: it wins where none is better
        scale = np.broadcast_to(params.scale.astype(np.float64).reshape(-1), (real.shape[0] * real.shape[1],))
        return best_shares(
            real,
            scale.reshape(real.shape[:2]),
            moments.covariance if enabled else moments.second(),
            limits=(params.spec.qmin, params.spec.qmax),
            shares=shares,
            rounded=later,
            together=not params.scale.ndim,
        )


def _changeable(state: State) -> list[Unit]:
    """Return the linear operators whose scales are nobody else's and bound to nothing."""
    nodes = {graph.node_name(n): n for n in state.model.graph}
    units = [u for u in state.plan.linear_units() if (u.node, 1) in state.encodings.edges]
    readers = Counter(u.weight for u in units)
    exact = state.recipe.portable
    return [
        u
        for u in units
        if readers[u.weight] == 1 and not (exact and portability.adds_pairs(u, nodes[u.node], state.recipe))
    ]


def _inputs(state: State, units: list[Unit], samples: int) -> Iterator[tuple[Unit, ir.Node, Spool]]:
    """Yield each operator with its float inputs."""
    if state.data is None:
        return
    nodes = {graph.node_name(n): n for n in state.model.graph}
    walk = Walk(state.model, [[u.inputs[0][1]] for u in units], state.data.take(samples), state.threads)
    try:
        for index, unit in enumerate(units):
            found = spool_all(walk.part(index).run(also=[unit.inputs[0][1]]))
            yield unit, nodes[unit.node], found[unit.inputs[0][1]]
            walk.finish(index, found)
    finally:
        walk.close()


def _bias(state: State, unit: Unit) -> npt.NDArray[np.generic] | None:
    return graph.constant(graph.named_values(state.model.graph)[unit.bias]) if unit.bias else None
