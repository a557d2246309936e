"""SmoothQuant (Xiao et al. 2022, 2211.10438): moves the unevenness of channels from activations into weights.

What makes an activation (the scale of a normalization, a product, a constant factor) is divided by a factor per
channel, the weights that read it are multiplied by it. The share that moves is searched for each activation by the
error of the products with both sides rounded, and taken where that falls on samples that it was not chosen on and
where the outputs of the model come closer to float. What runs from one linear operator to others is ``equalize``'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from quantcli import affine, dtypes, graph, rescaling, smoothing_trial
from quantcli.chains import find_chains
from quantcli.channels import same_function
from quantcli.sites import by_channel, find_sites, weight_of
from quantcli.smoothing import Rounds, Trial, factors_that_pay, smooth_factors, spread
from quantcli.smoothing_trial import grid_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from quantcli.data import RepresentativeDataset
    from quantcli.observations import Subject
    from quantcli.quant import QuantParams, QuantSpec
    from quantcli.sites import Site
    from quantcli.smoothing import Floats, Noise, Seen, Sight
    from quantcli.state import State, Tick

EXPONENTS: Final = tuple(i / 20 for i in range(21))
_IN_FLOAT: Final = "smoothing was left out: it is for products of which both sides are quantized"
_CHECKED: Final = 32  # samples on which the whole model is run once more


@dataclass(frozen=True, slots=True)
class Smooth:
    """Smooths the activations of products with constant weights.

    Attributes:
        samples: At most this many samples, spread over the dataset.
        rows: At most about this many rows of each activation.
        columns: At most this many outputs of each weight.
        gain: Share of the noise of its products that an activation must lose.
    """

    samples: int = 100
    rows: int = 1024
    columns: int = 256
    gain: float = 0.05
    needs: ClassVar[frozenset[str]] = frozenset({"observations"})
    gives: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state: State, tick: Tick) -> State:
        """Scale constants; no tensor changes its name."""
        known, sites, scheme = state.observations, _sites(state), state.recipe.scheme
        if known is None or not sites:
            return state
        if not {scheme.activations.dtype, scheme.weights.dtype} <= dtypes.BY_NAME.keys():
            return state.noted(notes=(_IN_FLOAT,))
        kind = f"smooth {self!r} {scheme!r}"
        found = known.of(
            state.model,
            [(kind, s.name) for s in sites],
            lambda asked, samples: self._look(state, samples, asked, tick),
            expected=np.ndarray,
        )
        factors = {name: f for (_, name), f in found.items() if f is not None}
        note = f"smoothing kept on {len(factors)} of {len(sites)} activations"
        report = replace(state.report, equalized=(*state.report.equalized, *factors))
        return replace(state, model=_applied(state.model, factors), report=report).noted(notes=(note,))

    def _look(
        self, state: State, data: RepresentativeDataset, asked: Sequence[Subject], tick: Tick
    ) -> dict[Subject, Floats | None]:
        """Return the factors of each activation that is smoothed, None for the others."""
        wanted = {name for _, name in asked}
        sites = [s for s in _sites(state) if s.name in wanted]
        seen = rescaling.observe(state, sites, data.take(self.samples), self.rows, tick)
        tried = {s.name: self._factors(state, s, seen[s.name]) for s in sites if s.name in seen}
        kept = smoothing_trial.helpful(state, data, seen, {n: f for n, f in tried.items() if f is not None})
        if kept and not same_function(replace(state, data=data), _applied(state.model, kept), _CHECKED):
            kept = {}
        return {(kind, name): kept.get(name) for kind, name in asked}

    def _factors(self, state: State, site: Site, seen: Seen) -> Floats | None:
        weights = [by_channel(r, weight_of(r)).astype(np.float64) for r in site.readers]
        scheme = state.recipe.scheme
        loudest = np.max([np.abs(w).max(axis=1) for w in weights], axis=0)
        candidates = {a: smooth_factors(seen.chosen.largest, loudest, a) for a in EXPONENTS}
        if scheme.weights.granularity != "per-tensor":
            weights = [spread(w, self.columns) for w in weights]
        wanted, grid = grid_of(scheme.activations), grid_of(scheme.weights, 1)

        def meter(sight: Sight) -> Noise:
            trial = Trial(sight.rows, weights)

            def noise(factors: Floats) -> float:
                params = affine.choose_params(*smoothing_trial.range_of(seen, factors), wanted)
                return trial.noise(factors, [_rounds(params, grid)] * len(weights))

            return noise

        return factors_that_pay(candidates, meter(seen.chosen), meter(seen.judged), self.gain)


def _sites(state: State) -> list[Site]:
    """Return the sites that constants can be scaled for, without those that equalize looks after."""
    others = find_chains(state.model) if state.recipe.enabled("equalize") else []
    taken = {graph.name_of(t) for c in others for t in c.tensors}
    return [s for s in find_sites(state.model) if s.makers and s.name not in taken]


def _applied(model: ir.Model, factors: Mapping[str, Floats]) -> ir.Model:
    if not factors:
        return model
    model = model.clone()
    names = graph.Names(model)
    for site in find_sites(model):
        if site.name in factors:
            rescaling.apply(site, factors[site.name], names)
    return model


def _rounds(params: QuantParams, grid: QuantSpec) -> Rounds:
    return Rounds(
        lambda rows: affine.fake_quantize(rows, params),
        lambda weight: affine.fake_quantize(weight, affine.weight_params(weight, grid)),
    )
