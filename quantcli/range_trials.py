"""Which of several ranges of a tensor does the model's results least harm? Tried on samples, one tensor at a time.

Everything behind the tensor is run by itself, in float, on what the float model gives: once for each range, with the
tensor rounded to the grid of that range. The harm is the noise of the results over their signal. A range that leaves
less noise of fewer but larger errors, as their fourth powers tell, is doubtful: it is the first to be left out.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import onnx_ir as ir

from quantcli import graph, runtime
from quantcli.errors import StatisticsError
from quantcli.metrics import Comparison
from quantcli.range_offers import offered
from quantcli.range_proof import PROOF, together
from quantcli.ranges import Range
from quantcli.spool import spool_all
from quantcli.submodel import outer_reads, sub_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from quantcli.data import RepresentativeDataset
    from quantcli.observations import Subject
    from quantcli.quant import QuantParams
    from quantcli.range_offers import Trial
    from quantcli.spool import Spool
    from quantcli.state import State, Tick

    Array = npt.NDArray[np.generic]

SAMPLES: Final = (2, 64)  # at least and at most
RUNS: Final = 400  # of the whole model, about, in all: what is behind a tensor is half of it in the mean
MOST_TRIALS: Final = RUNS // SAMPLES[0] * 2
ACTIVATIONS: Final = 500_000_000  # in all runs; a small model can afford more of them

GAIN: Final = 0.95
"""Another range than the first is taken if it leaves at most this share of the noise on each half of the samples.

A finer one has to leave a share that is smaller by as much as its step is: half of it should leave a quarter of the
noise if nothing that counts is cut off, and what is rare may be in none of the samples.
"""


@dataclass(frozen=True, slots=True)
class Picked:
    """What trials led to.

    Attributes:
        ranges: By tensor.
        methods: Which method gave them where it was not the first, by tensor.
        untried: How many there would have been to make, had the model been run.
    """

    ranges: Mapping[str, Range] = field(default_factory=dict)
    methods: Mapping[str, str] = field(default_factory=dict)
    untried: int = 0


class Harm(NamedTuple):
    """Mean over the results of the sum of squared errors, and of the root of that of their squares, over the signal."""

    noise: float
    peaks: float


def picked(state: State, tick: Tick) -> Picked:
    """Return the ranges of all tensors whose calibrator offers several, tried on samples that are spread over all.

    What serves each tensor by itself on one half of the samples and is confirmed on the other must serve all together
    as well: errors of ranges that cut off add up. Otherwise all stay as they were seen.
    """
    trials, seen = offered(state, MOST_TRIALS), state.observations
    unknown = seen is None or (state.stand_in and state.observed is None)
    if not trials or seen is None or unknown or runtime.is_large(state.model):
        return Picked(untried=len(trials))
    offers = [(sorted(t.group), t.grids[0].spec.dtype.name, _ends(t)) for t in trials]
    kind = f"ranges of least harm among {hashlib.sha256(repr(offers).encode()).hexdigest()}"

    def look(missing: list[Subject], samples: RepresentativeDataset) -> dict[Subject, list[int] | None]:
        return dict.fromkeys(missing, _best(state, trials, samples, tick))

    try:
        found: list[int] | None = seen.of(state.model, [(kind, "")], look, expected=list)[kind, ""]
    except StatisticsError:  # statistics that were collected for another method
        if state.stand_in or state.data is None:
            return Picked(untried=len(trials))
        found = _best(state, trials, state.data, tick)
    ranges, methods = dict[str, Range](), dict[str, str]()
    for trial, best in zip(trials, found or [0] * len(trials), strict=True):
        method = list(trial.ranges)[best]
        ranges |= dict.fromkeys(trial.group, trial.ranges[method])
        methods |= dict.fromkeys(trial.group, method) if best else {}
    return Picked(ranges, methods)


def _ends(trial: Trial) -> list[tuple[str, str]]:
    return [(grid.low.hex(), grid.high.hex()) for grid in trial.grids]


def _best(state: State, trials: Sequence[Trial], samples: RepresentativeDataset, tick: Tick) -> list[int]:
    """Return, for each trial, the number of the range that disturbs least; 0 where none is better than the first."""
    elements = sum(state.stats[n].count for n in state.plan.activations if n in state.stats) // max(len(samples), 1)
    runs = int(np.clip(ACTIVATIONS // max(elements, 1), RUNS, 20 * RUNS))
    count = int(np.clip(2 * runs // sum(len(t.grids) for t in trials), *SAMPLES))
    feeds = list(samples.take(count))
    halves = [_harms(state, trials, feeds[i::2], tick) for i in range(2 if len(feeds) > 1 else 1)]
    best, doubtful = dict[int, int](), set[int]()
    for index, harms in enumerate(zip(*halves, strict=True)):
        told = [h for h in harms if h is not None]
        if len(told) < len(halves):
            continue
        steps = [float(g.scale) for g in trials[index].grids]
        number = min(range(len(steps)), key=[h.noise for h in told[0]].__getitem__)
        share = max(h[number].noise / h[0].noise if h[0].noise else 1.0 for h in told)
        if share <= GAIN * steps[number] / steps[0]:
            best[index] = number
            doubtful |= {index} if any(h[number].peaks > h[0].peaks for h in told) else set()
    sites = [(_Behind(state.model, t).sources, t.grids) for t in trials]
    proof = samples.take(int(np.clip(runs // PROOF, *SAMPLES)) * 2)
    choices = [best, {i: number for i, number in best.items() if i not in doubtful}]
    kept = together(state.model, sites, choices, proof, state.threads)
    return [kept.get(i, 0) for i in range(len(trials))]


def _harms(
    state: State, trials: Sequence[Trial], samples: Iterable[Mapping[str, Array]], tick: Tick
) -> list[list[Harm] | None]:
    """Run the float model once per sample, and what is behind each tensor once per sample and grid."""
    behind = [_Behind(state.model, trial) for trial in trials]
    read = dict.fromkeys(n for b in behind for n in (*b.read, *b.results))
    found = []
    with _spooled(state, list(read), samples) as spools:
        for done, each in enumerate(behind, 1):
            found.append(each.harms(spools, state.threads))
            tick(done, len(behind))
    return found


class _Behind:
    """What is computed from the tensors of a trial."""

    def __init__(self, model: ir.Model, trial: Trial) -> None:
        self._model, self._trial = model, trial
        values = graph.named_values(model.graph)
        makers = {graph.name_of(v): n for n in model.graph for v in n.outputs if v.name}
        fixed = {n for n in trial.group if graph.is_constant(values[n])}  # such as a table beside what is taken from it
        self.sources = [n for n in sorted(trial.group - fixed) if not _follows(makers.get(n), trial.group)]
        own = {makers[n] for n in self.sources if n in makers}
        changed = set(self.sources)
        self.nodes: list[ir.Node] = []
        for node in model.graph:
            if node not in own and any(graph.name_of(v) in changed for v in outer_reads(node)):
                self.nodes.append(node)
                changed.update(graph.name_of(v) for v in node.outputs if v.name)
        made = {graph.name_of(v) for node in self.nodes for v in node.outputs if v.name}
        inputs = (v for node in self.nodes for v in outer_reads(node) if not graph.is_constant(v))
        self.read = list(dict.fromkeys([*self.sources, *(n for v in inputs if (n := graph.name_of(v)) not in made)]))
        ends = [graph.name_of(v) for v in model.graph.outputs if v.dtype is None or v.dtype.is_floating_point()]
        self.results = [n for n in ends if n in changed]

    def harms(self, spools: Mapping[str, Spool], threads: int) -> list[Harm] | None:
        """Return, for each grid, how far the results are off; None where nothing can be told."""
        computed = [n for n in self.results if n not in self.sources]
        session = self._session(computed, spools, threads) if computed else None
        total = [[Comparison() for _ in self.results] for _ in self._trial.grids]
        names = list(dict.fromkeys([*self.read, *self.results]))
        for arrays in zip(*(spools[n] for n in names), strict=True):
            known = dict(zip(names, arrays, strict=True))
            feed = {n: known[n] for n in self.read}
            for row, grid in enumerate(self._trial.grids):
                rounded = {n: _rounded(known[n], grid) for n in self.sources}
                got = {**rounded, **(session.run({**feed, **rounded}) if session else {})}
                total[row] = [c.add(known[n], got[n]) for c, n in zip(total[row], self.results, strict=True)]
        signal = np.array([c.signal for c in total[0]])
        noise, fourth = (np.array([[getattr(c, a) for c in row] for row in total]) for a in ("noise", "fourth"))
        kept = (signal > 0) & np.isfinite(signal) & np.isfinite(noise).all(axis=0)
        means = ((each[:, kept] / signal[kept]).mean(axis=1) for each in (noise, np.sqrt(fourth)))
        return [Harm(float(n), float(p)) for n, p in zip(*means, strict=True)] if kept.any() else None

    def _session(self, outputs: Sequence[str], spools: Mapping[str, Spool], threads: int) -> runtime.Session:
        fed = {}
        for name in self.read:
            dtype, rank = spools[name].first_kind()
            kind = ir.TensorType(ir.DataType.from_numpy(dtype))
            fed[name] = ir.TypeAndShape(kind, ir.Shape([None] * rank))
        return runtime.load(sub_model(self._model, self.nodes, fed, outputs), threads=threads)


def _follows(maker: ir.Node | None, group: frozenset[str]) -> bool:
    """Tell whether a tensor of a group is made of others of the group alone."""
    read = [graph.name_of(v) for v in outer_reads(maker) if not graph.is_constant(v)] if maker is not None else []
    return bool(read) and all(n in group for n in read)


def _rounded(values: Array, grid: QuantParams) -> npt.NDArray[np.float32]:
    """Return values on a grid; as ``affine.fake_quantize`` but for the last bit, and in float32, which is faster."""
    scale, zero = np.float32(grid.scale), int(grid.zero_point)
    steps = np.rint(values.astype(np.float32, copy=False) / scale)
    np.clip(steps, grid.spec.qmin - zero, grid.spec.qmax - zero, out=steps)
    return np.asarray(steps * scale, np.float32)


@contextmanager
def _spooled(state: State, names: Sequence[str], samples: Iterable[Mapping[str, Array]]) -> Iterator[dict[str, Spool]]:
    """Give what the float model makes of the samples, by tensor, for as long as it is needed."""
    spools = spool_all(_computed(state, names, samples))
    try:
        yield spools
    finally:
        for spool in spools.values():
            spool.close()


def _computed(state: State, names: Sequence[str], samples: Iterable[Mapping[str, Array]]) -> Iterator[dict[str, Array]]:
    values = graph.named_values(state.model.graph)
    made = [n for n in names if values[n].producer() is not None]
    session = runtime.load(state.model, threads=state.threads, outputs=made) if made else None
    for feed in samples:
        known = {**feed, **(session.run(feed) if session else {})}
        yield {n: known[n] for n in names}
