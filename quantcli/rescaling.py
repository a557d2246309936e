"""Rescales the channels of activations in a float model: looks at them, and moves factors into constants.

Works on the sites that ``sites`` finds; which factors are worth it is for the passes to say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from quantcli import graph, runtime
from quantcli.patches import plain_rows
from quantcli.sites import by_channel, weight_of
from quantcli.smoothing import Floats, Seen, Sight

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from quantcli.data import RepresentativeDataset
    from quantcli.sites import Site
    from quantcli.state import State, Tick

_ELEMENTS: Final = 1 << 26  # of the rows that are kept of all sites together
_FEWEST_ROWS: Final = 32


def observe(state: State, sites: Sequence[Site], data: RepresentativeDataset, rows: int, tick: Tick) -> dict[str, Seen]:
    """Run the float model and look at the activation of each site.

    Args:
        state: Of the model.
        sites: Of the state's model, or of a copy of it.
        data: The samples to look at.
        rows: At most about this many rows are kept of each activation; fewer of a model with many large ones.
        tick: Told of progress.

    Returns:
        By name of the activation; those without any row, or with values that are not finite, are left out.
    """
    if not sites:
        return {}
    affordable = _ELEMENTS // max(sum(s.channels for s in sites), 1)
    each = -(-max(_FEWEST_ROWS, min(rows, affordable)) // len(data))
    looks = {site.name: _Look() for site in sites}
    made = [s.name for s in sites if s.activation.producer() is not None]
    session = runtime.load(state.model, threads=state.threads, outputs=made) if made else None
    for done, feed in enumerate(data, 1):
        found = {**feed, **(session.run(feed) if session is not None else {})}
        for name, look in looks.items():
            look.add(np.asarray(found[name], np.float32), each)
        tick(done, len(data))
    return {name: seen for name, look in looks.items() if (seen := look.seen()) is not None}


def apply(site: Site, factors: Floats, names: graph.Names) -> list[ir.Node]:
    """Divide the activation of a site by factors, (C,), and multiply the weights of its readers by them.

    Returns:
        The nodes that were added: none, or the Mul of a site that no constant can do it for.
    """
    for maker in site.makers:
        old = graph.real_constant(maker.node.inputs[maker.index])
        if old is not None:
            _set(maker.node, maker.index, old / factors.reshape(maker.shape), names)
    for reader in site.readers:
        weight = by_channel(reader, weight_of(reader)) * factors[:, None]
        _set(reader, 1, by_channel(reader, weight), names)
    return [] if site.makers else [_inserted(site, factors, names)]


@dataclass(slots=True)
class _Look:
    """Running extremes and sums of each channel, and some rows of each sample."""

    low: Floats | None = None
    high: Floats | None = None
    total: Floats | None = None
    count: int = 0
    kept: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def add(self, array: npt.NDArray[np.float32], most: int) -> None:
        rows = array.reshape(-1, array.shape[-1])
        if not rows.size:
            return
        low, high = rows.min(axis=0).astype(np.float64), rows.max(axis=0).astype(np.float64)
        total = np.abs(rows).sum(axis=0, dtype=np.float64)
        if self.low is None or self.high is None or self.total is None:
            self.low, self.high, self.total = low, high, total
        else:
            self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
            self.total += total
        self.count += len(rows)
        self.kept.append(plain_rows(array, most)[0])

    def seen(self) -> Seen | None:
        """Return every other sample to choose by and the rest to judge by; every other row of a lone sample."""
        if self.low is None or self.high is None or self.total is None:
            return None
        if not (np.isfinite(self.low) & np.isfinite(self.high)).all():
            return None
        parts = self.kept if len(self.kept) > 1 else [self.kept[0][0::2], self.kept[0][1::2]]
        chosen, judged = np.concatenate(parts[0::2]), np.concatenate(parts[1::2])
        mean = self.total / self.count
        return Seen(*(Sight(self.low, self.high, mean, rows) for rows in (chosen, judged if judged.size else chosen)))


def _inserted(site: Site, factors: Floats, names: graph.Names) -> ir.Node:
    """Put a Mul between the activation and its readers."""
    value, home = site.activation, site.home
    inverse = graph.add_initializer(home, names.new(f"{site.name}_factors"), (1.0 / factors).astype(np.float32))
    node = ir.node("Mul", [value, inverse], name=names.new(f"{site.name}_rescaled"))
    node.outputs[0].name = names.new(f"{site.name}_even")
    node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
    home.insert_before(min(site.readers, key=list(home).index), node)
    for reader in site.readers:
        reader.replace_input_with(0, node.outputs[0])
    return node


def _set(node: ir.Node, index: int, array: npt.NDArray[np.floating], names: graph.Names) -> None:
    graph.set_own_constant(node, index, np.ascontiguousarray(array, np.float32), names)
