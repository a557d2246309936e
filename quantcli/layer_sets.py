"""The sets of linear layers whose weights can be levelled, and the factors of the channels between them.

A set is a chain (makers, readers), or two chains with a depthwise convolution between them. Knows graphs and what was
seen of channels; the formulas are those of ``cross_layer``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from quantcli import graph
from quantcli.chains import weight_by_input
from quantcli.cross_layer import pair_factors, triplet_factors
from quantcli.equalization import HEADROOM, limits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.chains import Chain, Maker
    from quantcli.equalization import ChannelStats

    Floats = npt.NDArray[np.float64]
    Factors = tuple[Floats, ...]  # of each chain of a set, what its channels are multiplied by
    Limits = tuple[Floats, Floats]  # least and largest factor of each channel

_LEVEL: Final = 1.01  # layers whose channels differ by no more are level


@dataclass(frozen=True, slots=True)
class LayerSet:
    """Linear layers, and the chains of channels between them: one, or two around a depthwise convolution."""

    chains: tuple[Chain, ...]

    def factors(self, allowed: Sequence[Limits]) -> Factors:
        """Return the factors that level the weights as they are now, as far as the limits of each chain allow."""
        first, last = _made(self.chains[0]), _read(self.chains[-1])
        if len(self.chains) == 1:
            return (np.clip(1 / pair_factors(first, last), *allowed[0]),)
        middle = _made(self.chains[1])
        before = np.clip(1 / triplet_factors(first, middle, last)[0], *allowed[0])
        return before, np.clip(1 / pair_factors(middle / before, last), *allowed[1])  # c / r3, were there no limits


def layer_sets(chains: Sequence[Chain]) -> list[LayerSet]:
    """Return the sets of a model's chains, in topological order; no chain is in two of them."""
    usable = [c for c in chains if c.readers and not c.normalizers]
    by_maker = {c.makers[0].node: c for c in usable if len(c.makers) == 1}
    behind = {id(c): by_maker.get(c.readers[0]) for c in usable if len(c.readers) == 1 and _is_depthwise(c.readers[0])}
    found: list[LayerSet] = []
    taken: set[int] = set()
    for chain in usable:
        after = behind.get(id(chain))
        if id(chain) not in taken:
            found.append(LayerSet((chain,) if after is None else (chain, after)))
            taken |= {id(c) for c in found[-1].chains}
    return found


def candidates(layers: LayerSet, stats: Mapping[str, ChannelStats] | None) -> list[Factors]:
    """Return the factors to choose from: those that level the weights, and those that widen no activation by it.

    Args:
        layers: Of a model as it is now.
        stats: What the samples show of the channels of that model; None where there are none. Then channels that a
            Clip might cut off are left alone: how large they become is not known.
    """
    if stats is None:
        clipped = any(c.bound is not None for c in layers.chains)
        found = [] if clipped else [layers.factors([(np.zeros(1), np.full(1, np.inf))] * len(layers.chains))]
    else:
        seen = [[stats.get(graph.name_of(t)) for t in c.tensors] for c in layers.chains]
        known = [[s for s in tensors if s is not None] for tensors in seen]
        if seen != known:
            return []
        free = [_under_clip(c, s[0]) for c, s in zip(layers.chains, known, strict=True)]
        narrow = [
            (least, np.minimum(most, limits(s, c.bound)))
            for (least, most), c, s in zip(free, layers.chains, known, strict=True)
        ]
        found = [layers.factors(free), layers.factors(narrow)]
    if len(found) == 2 and all(map(np.array_equal, *found)):
        found = found[:1]
    return [f for f in found if max(float(np.maximum(k, 1 / k).max(initial=1.0)) for k in f) > _LEVEL]


def _under_clip(chain: Chain, seen: ChannelStats) -> Limits:
    """Return the factors with which a channel stays below the Clip; one that comes near it keeps its size."""
    if chain.bound is None:
        return np.zeros(chain.channels), np.full(chain.channels, np.inf)
    reached = np.maximum(seen.high * HEADROOM, chain.bound * np.finfo(np.float32).eps)
    near = reached >= chain.bound
    return np.where(near, 1.0, 0.0), np.where(near, 1.0, chain.bound / reached)


def _is_depthwise(node: ir.Node) -> bool:
    weight = graph.real_constant(node.inputs[1])
    groups = graph.int_attribute(node, "group", 1) if node.op_type == "Conv" else 1
    return weight is not None and 1 < groups == weight.shape[0] and weight.shape[1] == 1


def _made(chain: Chain) -> Floats:
    """Return the largest magnitude of the weights that make each channel, (C,)."""
    return np.concatenate([_rows(maker) for maker in chain.makers])


def _rows(maker: Maker) -> Floats:
    largest: Floats = np.abs(weight_by_input(maker.node)).max(axis=(2, 3)).ravel()
    return largest


def _read(chain: Chain) -> Floats:
    """Return the largest magnitude of the weights that read each channel, (C,)."""
    largest: Floats = np.max([np.abs(weight_by_input(r)).max(axis=(1, 3)).ravel() for r in chain.readers], axis=0)
    return largest
