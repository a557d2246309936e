"""Tries a change of one chain on real samples: is its float function the same, and is less of it lost to rounding?

The chain is cut out of the float model and run by itself on what its makers read. Rounding is simulated in float: the
weights that the change touches are put on their grids, and every tensor with a range of its own on that of its range.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from quantcli import affine, dtypes, graph, runtime
from quantcli.chains import Chain, find_chains
from quantcli.metrics import Comparison
from quantcli.quant import PerAxis, PerTensor, QuantSpec
from quantcli.submodel import outer_reads, sub_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy.typing as npt

    from quantcli.data import Feed, RepresentativeDataset
    from quantcli.observations import Subject
    from quantcli.quant import QuantParams
    from quantcli.recipe import Scheme, TensorScheme
    from quantcli.state import State

    Array = npt.NDArray[np.generic]
    Change = Callable[[ir.Model, Chain], None]
    Ranges = Mapping[str, tuple[float, float]]

SAMPLES: Final = 8  # of feature maps, each with many positions
ROOM: Final = 1 << 25  # elements that are kept of them; large models are tried on fewer samples
SAME_DB: Final = 100.0  # 1e-5 of the size of a result


@dataclass(frozen=True, slots=True)
class Proposal:
    """What could be done to a chain.

    Attributes:
        chain: Of the model that is to be changed.
        change: Makes the change to a model that holds nothing but the chain, and the one behind it.
        before: Range of each of the tensors of both, by name.
        after: The same with the change.
        behind: A chain that is changed with it: its makers are readers of this one.
    """

    chain: Chain
    change: Change
    before: Ranges
    after: Ranges
    behind: Chain | None = None

    @property
    def chains(self) -> tuple[Chain, ...]:
        """All chains that are changed, in topological order."""
        return (self.chain,) if self.behind is None else (self.chain, self.behind)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a trial showed: SQNR between both float functions in dB, and the relative noise before and after."""

    same_db: float
    before: float
    after: float

    @property
    def accepted(self) -> bool:
        """Tell whether the function stays and the noise does not grow."""
        return self.same_db >= SAME_DB and self.after <= self.before


def accepted(state: State, proposals: Mapping[int, Proposal], who: str, samples: int = SAMPLES) -> frozenset[int]:
    """Return the proposals by which the results of their chains come closer to float, or at least no further away.

    Each is tried by itself, on some samples that are spread over the state's dataset.

    Args:
        state: With a float model.
        proposals: By any number.
        who: Names what proposes, with all that decides its proposals beside the model and the samples.
        samples: At most this many.
    """
    seen = state.observations
    if not proposals or seen is None:
        return frozenset()

    def look(asked: list[Subject], feeds: RepresentativeDataset) -> dict[Subject, bool | None]:
        tried = [(s, p) for s, p in zip(subjects, proposals.values(), strict=True) if s in asked]
        trials = ChainTrials.of(state, [p.chain for _, p in tried], feeds)
        return {s: trials.verdict(p).accepted for s, p in tried}

    kind = f"accepted: {who} for {state.recipe.scheme}"
    subjects = [(kind, " ".join(graph.name_of(t) for t in p.chain.tensors)) for p in proposals.values()]
    found = seen.part(samples).of(state.model, subjects, look, expected=bool)
    return frozenset(i for i, s in zip(proposals, subjects, strict=True) if found[s])


@dataclass(frozen=True, slots=True)
class ChainTrials:
    """A float model, and what the makers of its chains read in a few samples."""

    model: ir.Model
    scheme: Scheme
    samples: Sequence[Mapping[str, Array]]
    threads: int = 1

    @classmethod
    def of(cls, state: State, chains: Iterable[Chain], samples: Iterable[Feed]) -> ChainTrials:
        """Run the state's model on samples, and keep what the chains read; those that no memory holds are left out."""
        values = graph.named_values(state.model.graph)
        wanted = dict.fromkeys(name for c in chains for name in _read_by(_nodes(state.model, c)))
        computed = [n for n in wanted if values[n].producer() is not None]
        session = runtime.load(state.model, threads=state.threads, outputs=computed) if computed else None
        kept: list[dict[str, Array]] = []
        room = ROOM
        for feed in samples:
            fed: dict[str, Array] = {n: np.asarray(feed[n]) for n in wanted if n in feed}
            kept.append(fed | (session.run(feed) if session else {}))
            room -= sum(a.size for a in kept[-1].values())
            if room < 0:
                break
        return cls(state.model, state.recipe.scheme, kept, state.threads)

    def verdict(self, proposal: Proposal) -> Verdict:
        """Run the chain as it is and changed, in float and rounded."""
        chains, change, before, after = proposal.chains, proposal.change, proposal.before, proposal.after
        plain, changed = self._part(chains), self._part(chains)
        change(changed, find_chains(changed)[0])
        reference = self._session(plain)
        others = [changed, *(self._rounded(m, r) for m, r in ((plain, before), (changed, after)))]
        found = [_compared(reference, self._session(m), self.samples) for m in others]
        return Verdict(min(c.sqnr_db for c in found[0].values()), _noise(found[1]), _noise(found[2]))

    def rescaled(self, factors: Mapping[str, npt.NDArray[np.float32]]) -> ChainTrials:
        """Return the same with some of what is read multiplied by factors, as a change of the model makes it."""
        samples = [
            {n: np.multiply(a, factors[n], dtype=np.float32) if n in factors else a for n, a in s.items()}
            for s in self.samples
        ]
        return replace(self, samples=samples)

    def _part(self, chains: Sequence[Chain]) -> ir.Model:
        nodes = _nodes(self.model, *chains)
        types = {
            name: ir.TypeAndShape(
                ir.TensorType(ir.DataType.from_numpy(self.samples[0][name].dtype)),
                ir.Shape([None] * self.samples[0][name].ndim),
            )
            for name in _read_by(nodes)
        }
        ends = dict.fromkeys(graph.name_of(n.outputs[0]) for n in _ends(chains))
        return sub_model(self.model, nodes, types, list(ends))

    def _session(self, model: ir.Model) -> runtime.Session:
        return runtime.load(model, threads=self.threads)

    def _rounded(self, model: ir.Model, ranges: Ranges) -> ir.Model:
        model = model.clone()
        chains, names = find_chains(model), graph.Names(model)
        for node in dict.fromkeys(n for c in chains for n in (*(m.node for m in c.makers), *c.readers)):
            weight = graph.real_constant(node.inputs[1])
            spec = _spec(self.scheme.weights, _outputs_axis(node))
            if weight is not None and spec is not None:
                grid = affine.weight_params(weight, spec)
                graph.set_own_constant(node, 1, affine.fake_quantize(weight, grid), names)
        activation = _spec(self.scheme.activations, None)
        if activation is not None:
            for tensor in (t for c in chains for t in c.tensors):
                grid = affine.choose_params(*ranges[graph.name_of(tensor)], activation)
                insert_rounding(model.graph, tensor, grid, names)
        return model


def _ends(chains: Sequence[Chain]) -> list[ir.Node]:
    """Return what the chains end in, without what makes another of them."""
    inner = {m.holder for c in chains[1:] for m in c.makers}
    return [n for c in chains for n in c.ends if n not in inner]


def _nodes(model: ir.Model, *chains: Chain) -> list[ir.Node]:
    """Return the nodes from the makers to the ends, in topological order."""
    first = {m.node for m in chains[0].makers}
    found, todo = set(first), _ends(chains)
    while todo:
        node = todo.pop()
        if node not in found:
            found.add(node)
            todo.extend(p for v in node.inputs if v is not None and (p := v.producer()) is not None)
    return [n for n in model.graph if n in found]


def _read_by(nodes: Sequence[ir.Node]) -> list[str]:
    """Return what the nodes read that is neither constant nor made by one of them."""
    made = {v for n in nodes for v in n.outputs}
    read = (v for n in nodes for v in outer_reads(n))
    return list(dict.fromkeys(graph.name_of(v) for v in read if v not in made and not graph.is_constant(v)))


def _outputs_axis(node: ir.Node) -> int:
    return 0 if node.op_type == "Conv" or graph.int_attribute(node, "transB", 0) else 1


def _spec(scheme: TensorScheme, axis: int | None) -> QuantSpec | None:
    """Return the spec of a tensor, or None where it is not quantized; blocks are taken for channels."""
    if scheme.dtype not in dtypes.BY_NAME:
        return None
    per_channel = axis is not None and scheme.granularity != "per-tensor"
    granularity = PerAxis(axis) if per_channel and axis is not None else PerTensor()
    return QuantSpec(dtypes.BY_NAME[scheme.dtype], scheme.symmetric, granularity, scheme.narrow_range)


def insert_rounding(within: ir.Graph, tensor: ir.Value, params: QuantParams, names: graph.Names) -> None:
    """Let all readers of a tensor read it rounded: ``clip(round(x / s), qmin - z, qmax - z) * s``, for any bits."""
    scale, zero = params.scale, int(params.zero_point)
    low, high = params.spec.qmin - zero, params.spec.qmax - zero
    constants = [
        graph.add_initializer(within, names.new("grid"), np.asarray(a, np.float32)) for a in (scale, low, high)
    ]
    readers, value = graph.consumers(tensor), tensor
    for op_type, others in (("Div", constants[:1]), ("Round", ()), ("Clip", constants[1:]), ("Mul", constants[:1])):
        node = ir.Node("", op_type, [value, *others], num_outputs=1)
        node.outputs[0].name = names.new(f"{graph.name_of(tensor)}_rounded")
        within.append(node)
        value = node.outputs[0]
    for reader, index in readers:
        reader.replace_input_with(index, value)
    within.sort()


def _compared(
    reference: runtime.Session, other: runtime.Session, samples: Iterable[Mapping[str, Array]]
) -> dict[str, Comparison]:
    total: dict[str, Comparison] = {}
    for sample in samples:
        found = other.run(sample)
        for name, array in reference.run(sample).items():
            total[name] = total.get(name, Comparison()).add(array, found[name])
    return total


def _noise(found: Mapping[str, Comparison]) -> float:
    """Return the squared error of the ends relative to their results, summed over them."""
    return sum(c.noise / c.signal if c.signal else c.noise for c in found.values())
