"""What advice knows, as data: measured speeds by kind of work, which mode suits which model, and what to mind.

Speeds are those of onnxruntime 1.31's CPU provider on x86 with VNNI, against float32, as ranges over layer shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from quantcli.workload import ATTENTION, CONVOLUTION, DEPTHWISE, PRODUCT, RECURRENT

if TYPE_CHECKING:
    from collections.abc import Mapping

TARGETS: Final = ("cpu", "edge-integer", "gpu", "size")
SMALL_BYTES: Final = 100_000  # of weights: the graph itself is a large part of such a file
SMALL_MACS: Final = 2_000_000  # calling the operators takes as long as computing them

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Speeds:
    """Speed of one arithmetic against float, by kind of work.

    Attributes:
        kinds: (low, high) by kind; 1 where it is not listed.
        rest: Of everything that does not multiply.
    """

    kinds: Mapping[str, Range] = field(default_factory=dict)
    rest: Range = (1.0, 1.0)

    def of(self, kind: str) -> Range:
        """Return the range of a kind of work."""
        return self.kinds.get(kind, (1.0, 1.0))

    @property
    def is_unchanged(self) -> bool:
        """Tell whether nothing is faster or slower than float."""
        return not self.kinds


UNCHANGED: Final = Speeds()
_EIGHT: Final = Speeds(
    {CONVOLUTION: (2.0, 4.1), DEPTHWISE: (0.3, 1.3), PRODUCT: (1.3, 3.5), ATTENTION: (1.2, 3.0)}, rest=(0.45, 1.0)
)
_WIDE: Final = Speeds(
    {CONVOLUTION: (0.25, 1.05), DEPTHWISE: (0.1, 0.4), PRODUCT: (1.1, 2.0), ATTENTION: (0.4, 1.2)}, rest=(0.15, 0.8)
)
# Share of the float time that is no multiplication, (pessimistic, optimistic), up to so many multiply-accumulates of
# an average operator: the smaller the operators, the more of the time goes into calling them and moving data.
OUTSIDE: Final = ((5e5, (0.8, 0.5)), (3e6, (0.5, 0.2)), (float("inf"), (0.25, 0.05)))
SPEEDS: Final[Mapping[tuple[str, str, str], Speeds]] = {  # by types of activations and weights, and format
    ("uint8", "int8", "qdq"): _EIGHT,
    ("uint8", "int8", "integer"): _EIGHT,
    ("int16", "int8", "integer"): _WIDE,
    ("int16", "int8", "qdq"): Speeds({CONVOLUTION: (0.75, 1.05), PRODUCT: (0.1, 1.0)}, rest=(0.5, 1.0)),
    ("uint8", "int8", "float"): Speeds({PRODUCT: (1.0, 3.5), RECURRENT: (1.0, 3.4)}),
    ("float32", "int8", "float"): Speeds({PRODUCT: (0.3, 3.1)}),
    ("float32", "int4", "float"): Speeds({PRODUCT: (0.15, 5.0)}),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of model and target, and the modes that suit it.

    Attributes:
        when: Traits that all must hold.
        ranking: Modes, the best first; the last one is taken even where it gains nothing.
        reason: Why.
        collects: Whether it is worth collecting calibration data first.
    """

    when: frozenset[str]
    ranking: tuple[str, ...]
    reason: str
    collects: bool = False


@dataclass(frozen=True, slots=True)
class Note:
    """What to mind where all traits hold; in these modes, or in general where none is named."""

    when: frozenset[str]
    text: str
    modes: tuple[str, ...] = ()


def _when(*traits: str) -> frozenset[str]:
    return frozenset(traits)


# The first rule that holds decides.
RULES: Final = (
    Rule(
        _when("half"),
        ("none",),
        "its weights are float16 already, and operators on float16 tensors keep them: "
        "export the model in float32 to quantize it further",
    ),
    Rule(
        _when("for gpu"),
        ("float16", "none"),
        "GPU delegates compute in float16: half the size, and integers gain little there",
    ),
    Rule(
        _when("for edge-integer"),
        ("int8-only", "16x8", "full-integer", "dynamic-range", "float16", "none"),
        "an integer device takes a model without any float operator",
        collects=True,
    ),
    Rule(
        _when("for size", "language"),
        ("weight-only-int4", "weight-only-int8", "dynamic-range", "float16", "none"),
        "weights of matrix products and embeddings are nearly all of such a transformer: 4 bits make it smallest",
    ),
    Rule(
        _when("for size", "transformer"),
        ("weight-only-int4", "weight-only-int8", "dynamic-range", "float16", "none"),
        "weights of matrix products are most of a transformer: 4 bits make it smallest",
    ),
    Rule(
        _when("for size"),
        ("dynamic-range", "weight-only-int8", "full-integer", "int8-only", "float16", "none"),
        "int8 weights make a quarter of the size, and activations keep their accuracy in float",
    ),
    Rule(
        _when("language"),
        ("dynamic-range", "weight-only-int8", "weight-only-int4", "float16", "none"),
        "a transformer's activations have outliers that one static 8-bit range ruins; "
        "dynamic ranges follow each input, and its matrix products become integer",
    ),
    Rule(
        _when("transformer"),
        ("dynamic-range", "weight-only-int8", "16x8", "float16", "none"),
        "a transformer's activations have outliers that one static 8-bit range ruins; "
        "dynamic ranges follow each input, and its matrix products become integer",
    ),
    Rule(
        _when("recurrent"),
        ("dynamic-range", "float16", "none"),
        "in a recurrent net the error of static 8-bit activations adds up from step to step, and no integer kernel "
        "keeps a state; dynamic ranges store its weights in int8 and compute its products in integers",
    ),
    Rule(
        _when("data", "dense"),
        ("16x8", "full-integer", "int8-only", "dynamic-range", "float16", "none"),
        "the output is a picture or a signal, where every value counts: 16-bit activations keep what 8 bits round away",
    ),
    Rule(
        _when("data"),
        ("full-integer", "int8-only", "dynamic-range", "float16", "none"),
        "with samples, weights and activations become 8-bit: a quarter of the size and the fastest arithmetic",
    ),
    Rule(
        _when("convolutional"),
        ("dynamic-range", "float16", "none"),
        "without samples no activation can be quantized beforehand: int8 weights make a quarter of the size "
        "(float16 half, more exactly), at float speed",
    ),
    Rule(
        _when(),
        ("dynamic-range", "float16", "none"),
        "without samples no activation can be quantized beforehand: int8 weights make a quarter of the size, and "
        "matrix products quantize their activations at run time",
    ),
)

_STATIC_8: Final = ("full-integer", "int8-only")
_STATIC: Final = (*_STATIC_8, "16x8")
NOTES: Final = (
    Note(
        _when("small"), "the model is small: the graph itself is a large part of the file, and no mode makes it smaller"
    ),
    Note(
        _when("quick"),
        "there is little to compute: calling operators takes most of the time, so expect little in speed",
    ),
    Note(_when("weightless"), "less than half of the file is float weights: no mode makes the rest smaller"),
    Note(_when("free"), "some dimensions are free: the work is counted for the sizes of one sample"),
    Note(_when("control"), "bodies of If, Loop and Scan are converted too; their work is not counted here"),
    Note(
        _when("few samples"), "fewer than 20 samples: ranges come out too narrow; some tens to a few hundred are usual"
    ),
    Note(
        _when("no labels"),
        "with `labels:` in the dataset spec, quant convert reports top-1 accuracy (docs/dataset.md)",
    ),
    Note(_when("transformer"), "static 8 bits ruin most transformers (MobileBert: F1 88.8 to 2.1)", _STATIC_8),
    Note(_when("recurrent"), "the error of 8-bit states adds up from step to step", _STATIC_8),
    Note(_when("dense"), "8-bit activations cost about 1 to 5 dB in pictures and signals", _STATIC_8),
    Note(
        _when("depthwise"),
        "depthwise convolutions gain little in integers unless channels are a multiple of 16",
        _STATIC_8,
    ),
    Note(_when("convolutional"), "convolutions in 16 bits are as fast as float at best on this runtime", ("16x8",)),
    Note(_when("convolutional"), "convolutions compute in float with stored weights", ("dynamic-range",)),
    Note(_when("language"), "4 bits cost accuracy: compare perplexity", ("weight-only-int4",)),
    Note(_when("for cpu"), "this runtime computes in float32: half the file, the same speed", ("float16",)),
    Note(_when("for edge-integer"), "check that the device takes 16-bit activations", ("16x8",)),
)
