"""Stores the weights of what stays float in integers; recurrent nets and products then compute with them.

What no static form fits (LSTM, GRU, branches that no sample takes) still shrinks, and where quantizing activations at
run time pays it computes in integers too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from quantcli import patterns, runtime
from quantcli.errors import InternalError, ModelError
from quantcli.lowering import stored_graph
from quantcli.report import FLOAT, INTEGER, STORED, Entry
from quantcli.state import Quantized
from quantcli.storage import Wish
from quantcli.storing import plan_storage

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from quantcli.state import State, Tick

_ASKED = "kept float as asked"


@dataclass(frozen=True, slots=True)
class StoreWeights:
    """Stores them in the emitted model, or in the prepared one where nothing was emitted.

    Attributes:
        smallest: Fewest elements of a weight that is worth storing.
        dynamic: Whether activations may be quantized at run time.
        search: Whether scales are searched for the smallest error of products.
        mean: Mean squared over variance of what the weights are multiplied with, as assumed by the search.
        balance: Whether kernels of convolutions are rounded so that they keep their sums.
    """

    smallest: int = 1024
    dynamic: bool = True
    search: bool = False
    mean: float = 0.0
    balance: bool = False
    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset({"quantized"})

    def __call__(self, state: State, tick: Tick) -> State:
        """Store, and enter what changed into the ledger."""
        quantized = state.quantized or Quantized(state.model, params=dict(state.inner))
        model = quantized.model.clone()
        infos = _annotated(model)
        matched = patterns.match_all(state.recipe.exclude, state.model, state.report.ledger)
        asked = {name: _ASKED for names in matched.values() for name in names}
        wish = Wish(state.recipe.scheme.weights, dynamic=self.dynamic, smallest=self.smallest)
        plan, ledger = plan_storage(model, infos, wish, asked)
        if not plan.stored:
            return state
        rounding = stored_graph.Rounding(self.search, self.mean, self.balance, state.recipe.portable)
        params = stored_graph.write(model, plan.stored, rounding, tick)
        made = replace(quantized, model=model, params={**quantized.params, **params})
        return replace(state, quantized=made).entered(_changed(state.report.ledger, ledger))


def _annotated(model: ir.Model) -> dict[str, runtime.TensorInfo]:
    """Annotate a model that we wrote: one that does not load is an error of ours.

    Raises:
        InternalError: onnxruntime refuses it.
    """
    try:
        return runtime.annotate(model)
    except ModelError as error:
        raise InternalError(f"the quantized model does not load: {error.message}") from error


def _changed(before: Mapping[str, Entry], found: Mapping[str, Entry]) -> dict[str, Entry]:
    """Return the operators that were float, or unknown so far, and now have stored weights."""
    changed = {}
    for name, entry in found.items():
        old = before.get(name)
        if entry.fate in (INTEGER, STORED) and (old is None or old.fate == FLOAT):
            changed[name] = entry
    return changed
