"""Decides which weights of a float graph are stored in integers, and how each reader gets at them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

from quantcli import patterns, runtime
from quantcli.errors import UnsupportedError
from quantcli.storage import Wish
from quantcli.storing import plan_storage

if TYPE_CHECKING:
    from quantcli.report import Entry
    from quantcli.state import State, Tick

_ASKED: Final = "kept float as asked"


@dataclass(frozen=True, slots=True)
class PlanWeights:
    """Plans the storage of every weight.

    Attributes:
        smallest: Fewest elements of a weight that is worth storing.
        everywhere: Whether convolutions and recurrent operators are stored too, beside MatMul, Gemm and Gather.
        fused: Whether block-wise weights may reach onnxruntime's kernel, which rounds activations to int8.
        eight_bit_below: Weights with fewer elements are stored in 8 bits even if 4 are wanted.
        eight_bit_tables: Whether embeddings are, too.
        must_gain: Whether a model in which nothing can be stored is refused.
    """

    smallest: int = 1024
    everywhere: bool = True
    fused: bool = True
    eight_bit_below: int = 0
    eight_bit_tables: bool = False
    must_gain: bool = False
    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset({"plan"})

    def __call__(self, state: State, tick: Tick) -> State:
        """Plan, and enter every node into the ledger."""
        del tick
        model = state.model.clone()
        infos = runtime.annotate(model)
        matched = patterns.match_all(state.recipe.exclude, model, state.report.ledger)
        asked = {name: _ASKED for names in matched.values() for name in names}
        notes = tuple(f"--float {p}: {len(names)} nodes" for p, names in matched.items())
        scheme = state.recipe.scheme
        wish = Wish(
            scheme.weights,
            dynamic=scheme.activations.dtype != "float32",
            fused=self.fused,
            everywhere=self.everywhere,
            smallest=self.smallest,
            eight_bit_below=self.eight_bit_below,
            eight_bit_tables=self.eight_bit_tables,
        )
        plan, ledger = plan_storage(model, infos, wish, asked)
        if self.must_gain and not plan.stored and not state.inner:
            _refuse(state.recipe.name, ledger)
        return replace(state, model=model, plan=plan).noted(notes=notes).entered(ledger)


def _refuse(mode: str, ledger: dict[str, Entry]) -> None:
    """Raise with the reason of every operator."""
    raise UnsupportedError(
        f"no weight of this model can be stored smaller in mode {mode!r}",
        reasons=[f"{e.op_type} {e.node!r}: {e.reason}" for e in ledger.values()],
        hint="use --mode dynamic-range, which stores the weights of convolutions too",
    )
