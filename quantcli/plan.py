"""What was decided before any number is known: which nodes become integer, how, and why the others do not.

Values only; ``planner`` decides.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantcli.quant import QuantSpec


@dataclass(frozen=True, slots=True)
class Unit:
    """One integer operator to be: the node that gives it its name, and the nodes that it swallows.

    Attributes:
        node: Name of the main node.
        lowering: Which integer form it takes: a key of the lowering table.
        inputs: Activations that it reads, as (input index of ``node``, tensor name).
        output: The tensor that it makes, after everything that it absorbs. Empty for units with several outputs.
        absorbed: Names of the nodes that disappear into it: bias Add, activation.
        members: All nodes of a pointwise region in order, ``node`` being the last; empty for other units.
        weight: Name of the constant weight of a linear unit.
        bias: Name of its constant bias.
        axis: Output channel axis of the weight.
        channel: Axis of a region's input along which its constants vary, or None.
        clamp: Smallest and largest value that absorbed activations let through.
        float_result: Whether the result is left in float because no other unit reads it.
    """

    node: str
    lowering: str
    inputs: tuple[tuple[int, str], ...]
    output: str
    outputs: tuple[str, ...] = ()
    absorbed: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    weight: str | None = None
    bias: str | None = None
    axis: int = 0
    channel: int | None = None
    clamp: tuple[float, float] | None = None
    float_result: bool = False


@dataclass(frozen=True, slots=True)
class StoredUse:
    """One operator that reads a stored weight.

    Attributes:
        node: Name of the node.
        index: Which of its inputs the weight is.
        form: How the node gets at the integers: a key of the table of forms, or ``folded``.
        reason: Why it takes no other form.
    """

    node: str
    index: int
    form: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A constant that is stored in integers, once for all who read it.

    Attributes:
        name: Its name.
        spec: How it is quantized.
        uses: Its readers in the main graph; bodies of If, Loop and Scan always read the folded form.
        scope: Which graph holds it, counted as ``graph.all_graphs`` yields them; 0 is the main graph.
        twin: Name of the stored weight whose transpose it is; then nothing is stored for it.
        kernels: Whether it holds the kernels of convolutions, (C_out, C_in / group, *taps).
    """

    name: str
    spec: QuantSpec
    uses: tuple[StoredUse, ...] = ()
    scope: int = 0
    twin: str = ""
    kernels: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The decisions for one graph.

    Attributes:
        units: Integer units in topological order.
        regions: Pointwise regions that stay float as one piece, so that nothing inside them is quantized.
        activations: Tensor name -> spec of every activation on an integer edge, constants read as activations included.
        weights: Weight name -> spec.
        groups: Sets of tensors that share one scale and zero point.
        fixed: Tensor name -> (scale, zero point) known beforehand.
        skipped: Node name -> why it stays float.
        untouched: Nodes that have nothing to quantize.
        useful: Tensor name -> values beyond which none of its readers can tell a difference.
        stored: Weights of a float graph that are stored in integers.
    """

    units: tuple[Unit, ...] = ()
    activations: Mapping[str, QuantSpec] = field(default_factory=dict)
    weights: Mapping[str, QuantSpec] = field(default_factory=dict)
    groups: tuple[frozenset[str], ...] = ()
    fixed: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    untouched: frozenset[str] = frozenset()
    useful: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    stored: tuple[StoredWeight, ...] = ()

    def linear_units(self) -> tuple[Unit, ...]:
        """Return the units that have a constant weight."""
        return tuple(u for u in self.units if u.weight is not None)
