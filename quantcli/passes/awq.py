"""AWQ (Lin et al. 2023, 2306.00978): keeps the weights of loud channels exact where weights alone are quantized.

Each input channel of a product gets a factor, a power of how loud it is: its weights are multiplied with it before
they are rounded, what makes the activation is divided by it. The power is searched by the error of the products.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from quantcli import affine, dtypes, graph, rescaling
from quantcli.channels import same_function
from quantcli.lowering.stored_graph import Rounding
from quantcli.quant import PerBlock, PerTensor, QuantSpec
from quantcli.report import FLOAT, Entry
from quantcli.sites import by_channel, find_sites, weight_of
from quantcli.smoothing import Rounds, Trial, aware_factors, factors_that_pay, spread
from quantcli.storage import BLOCKED

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    import onnx_ir as ir

    from quantcli.plan import StoredUse, StoredWeight
    from quantcli.sites import Site
    from quantcli.smoothing import Floats, Noise, Seen, Sight
    from quantcli.state import State, Tick

    Held = tuple[StoredWeight, StoredUse]
    Stored = Mapping[str, Held]
    Real = npt.NDArray[np.floating]

EXPONENTS: Final = tuple(i / 10 for i in range(1, 11))
_CHECKED: Final = 32  # samples on which the whole model is run once more
_ADDED: Final = "evens out channels for the rounding of the weights behind it"
_MADE_UP: Final = "awq was left out: it needs real samples, which --representative-dataset gives"
_CHANGED: Final = "awq would change the float function and was left out"
# MatMulNBits rounds activations to int8 in blocks of 32 along the sum, whatever the blocks of the weight.
_BY_KERNEL: Final = QuantSpec(dtypes.INT8, symmetric=True, granularity=PerBlock(1, 32))


@dataclass(frozen=True, slots=True)
class Awq:
    """Rescales the input channels of products whose weights are stored in integers.

    Attributes:
        samples: At most this many samples, spread over the dataset.
        rows: At most about this many rows of each activation.
        columns: At most this many outputs of each weight.
        gain: Share of the noise of its products that a site must lose.
        insert: The same for a site that needs a Mul of its own.
        search: Whether the scales of the weights are going to be searched, as ``emit_weights`` does if asked to.
    """

    samples: int = 64
    rows: int = 1024
    columns: int = 256
    gain: float = 0.08
    insert: float = 0.1
    search: bool = True
    needs: ClassVar[frozenset[str]] = frozenset({"plan", "data"})
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Rescale each site where that pays; leave all as they are where the float function would change."""
        if state.data is None or state.data.synthetic:
            return state.noted(notes=(_MADE_UP,))
        model, stored = state.model.clone(), _stored(state)
        sites = [s for s in find_sites(model) if _is_free(s, stored)]
        seen = rescaling.observe(state, sites, state.data.take(self.samples), self.rows, tick)
        names, added, kept = graph.Names(model), list[str](), 0
        for site in (s for s in sites if s.name in seen):
            factors = self._factors(site, seen[site.name], stored)
            if factors is not None:
                added += [graph.node_name(n) for n in rescaling.apply(site, factors, names)]
                kept += 1
        if not sites:
            return state
        own = f", {len(added)} of them by a Mul of its own" if added else ""
        if kept and not same_function(state, model, _CHECKED):
            return state.noted(notes=(_CHANGED,))
        entries = {name: Entry(name, "Mul", FLOAT, reason=_ADDED, by_design=True) for name in added}
        note = f"awq rescaled {kept} of {len(sites)} activations{own}"
        return replace(state, model=model if kept else state.model).entered(entries).noted(notes=(note,))

    def _factors(self, site: Site, seen: Seen, stored: Stored) -> Floats | None:
        held = [stored.get(graph.node_name(r)) for r in site.readers]
        weights = [self._weight(r, h) for r, h in zip(site.readers, held, strict=True)]

        def meter(sight: Sight, *, search: bool) -> Noise:
            trial = Trial(sight.rows, weights)
            rounds = [_rounds(r, h, search=search) for r, h in zip(site.readers, held, strict=True)]
            return lambda factors: trial.noise(factors, rounds)

        return factors_that_pay(
            {a: aware_factors(seen.chosen.mean, a) for a in EXPONENTS},
            meter(seen.chosen, search=False),
            meter(seen.judged, search=self.search),
            self.gain if site.makers else self.insert,
        )

    def _weight(self, node: ir.Node, held: Held | None) -> Floats:
        """Return a weight as (C, outputs), or some of its outputs where these are rounded independently."""
        real = by_channel(node, weight_of(node)).astype(np.float64)
        whole = held is not None and isinstance(held[0].spec.granularity, PerTensor)
        return real if whole else spread(real, self.columns)


def _rounds(node: ir.Node, held: Held | None, *, search: bool) -> Rounds:
    """Return how a product is going to compute."""
    if held is None:
        return Rounds(_unrounded, _unrounded)
    weight, use = held
    if graph.int_attribute(node, "transB", 0):
        weight = replace(weight, spec=affine.transposed_spec(weight.spec))
    rounding = Rounding(search=search)
    return Rounds(
        _by_kernel if use.form == BLOCKED else _unrounded,
        lambda array: affine.dequantize(*rounding(array, weight)),
    )


def _stored(state: State) -> Stored:
    """Return, by the product that reads it, each stored weight of the main graph."""
    return {u.node: (w, u) for w in state.plan.stored if not w.scope for u in w.uses if u.index == 1}


def _is_free(site: Site, stored: Stored) -> bool:
    """Tell whether a site has a weight to gain from, and none that is the transpose of another: one file for both."""
    held = [stored[name][0] for r in site.readers if (name := graph.node_name(r)) in stored]
    twins = {w.twin for w, _ in stored.values()}
    return bool(held) and not any(w.twin or w.name in twins for w in held)


def _unrounded(rows: Real) -> Real:
    return rows


def _by_kernel(rows: Real) -> Real:
    return affine.fake_quantize(rows, affine.weight_params(rows, _BY_KERNEL))
