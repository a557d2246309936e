"""What a conversion says of itself: sizes, the coverage ledger, ranges, verification, warnings. Values only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

INTEGER: Final = "integer"
ABSORBED: Final = "absorbed"
FOLDED: Final = "folded"
STORED: Final = "stored"  # its weights are stored smaller; it computes in float
FLOAT: Final = "float"
UNTOUCHED: Final = "untouched"  # computes with integers or strings of the user's own; nothing to quantize


@dataclass(frozen=True, slots=True)
class Entry:
    """One node of the user's graph: its fate, the kernel that computes it, and why.

    ``by_design`` is a float operator that the mode has nothing to store or compute smaller for; ``--strict`` passes it.
    """

    node: str
    op_type: str
    fate: str
    kernel: str = ""
    reason: str = ""
    macs: int = 0
    by_design: bool = False


@dataclass(frozen=True, slots=True)
class FeedStats:
    """What was fed to one input."""

    count: int
    min: float
    max: float
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class OutputQuality:
    """One output of the quantized model against the float one."""

    sqnr_db: float
    cosine: float
    max_error: float
    top1_agreement: float | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """What loading and running the output showed."""

    samples: int
    outputs: Mapping[str, OutputQuality]
    optimized_rms_steps: float  # difference between optimized and unoptimized execution, in steps of the output
    kernels: Mapping[str, int]  # operators after onnxruntime's optimizations


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Share of the labelled samples whose class the models find: the float one and the quantized one."""

    output: str
    samples: int
    float_top1: float
    quantized_top1: float


@dataclass(frozen=True, slots=True)
class Product:
    """An integer product: whether its sums are exact on x86 CPUs without VNNI, too.

    Attributes:
        node: The operator, as the user knows it.
        op_type: What computes it.
        weight: Its weight.
        exact: Whether no sum of two products can leave 16 bits where the CPU adds them so.
        reason: Why, or why not.
        largest_pair: Largest sum of two products, in size; 0 where no two are added in 16 bits.
        channels: Output channels whose sums may saturate.
    """

    node: str
    op_type: str
    weight: str
    exact: bool
    reason: str = ""
    largest_pair: int = 0
    channels: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """The report of one conversion; grows from pass to pass."""

    ledger: Mapping[str, Entry] = field(default_factory=dict)
    feeds: Mapping[str, FeedStats] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    parity_db: float | None = None
    equalized: tuple[str, ...] = ()  # tensors whose channels carry factors that the user's tensors do not
    products: tuple[Product, ...] = ()  # integer ones, and whether they are exact on every CPU
    verification: Verification | None = None
    accuracy: Accuracy | None = None  # where the dataset has labels
    timings: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def count(self) -> dict[str, int]:
        """Return the number of nodes by fate."""
        counted = Counter(e.fate for e in self.ledger.values())
        return {fate: counted[fate] for fate in (INTEGER, ABSORBED, FOLDED, STORED, FLOAT, UNTOUCHED) if counted[fate]}

    def work(self) -> tuple[int, int]:
        """Return the multiply-accumulates of one sample: those in integers, and all that were counted."""
        integers = sum(e.macs for e in self.ledger.values() if e.fate in (INTEGER, ABSORBED))
        return integers, sum(e.macs for e in self.ledger.values())

    def floats(self) -> list[Entry]:
        """Return the entries of nodes that stay float."""
        return [e for e in self.ledger.values() if e.fate == FLOAT]
