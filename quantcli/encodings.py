"""The encodings of a quantized model and their JSON form: AIMET's schema 2.0.0 with our provenance beside it.

Numbers are those of the ONNX file, exactly. Knows no graph and does no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from quantcli.quant import PerBlock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    import numpy.typing as npt

    from quantcli.quant import QuantParams

VERSION: Final = "2.0.0"
Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True, slots=True)
class Encodings:
    """Parameters by tensor, and overrides by (consumer node, input index) where an edge differs from its tensor."""

    tensors: Mapping[str, QuantParams] = field(default_factory=dict)
    edges: Mapping[tuple[str, int], QuantParams] = field(default_factory=dict)

    def of_edge(self, node: str, index: int, tensor: str) -> QuantParams:
        """Return the parameters with which input ``index`` of ``node`` reads ``tensor``."""
        return self.edges.get((node, index)) or self.tensors[tensor]

    def with_tensors(self, more: Mapping[str, QuantParams]) -> Encodings:
        """Return these encodings with more (or other) tensors."""
        return Encodings({**self.tensors, **more}, self.edges)


def to_json(params: Mapping[str, QuantParams], provenance: Mapping[str, Json]) -> dict[str, Json]:
    """Return the document: one entry per tensor name, sorted, and the provenance block.

    Schema: AIMET encodings 2.0.0 (``y_scale``, ``y_zero_point`` in ONNX's sign, ``axis``, ``block_size``).
    """
    entries: list[Json] = list(entries_of(params))
    return {"version": VERSION, "encodings": entries, "quantcli": dict(provenance)}


def entries_of(params: Mapping[str, QuantParams]) -> Iterator[dict[str, Json]]:
    """Yield the entries of a document one by one: as Python numbers, scales take eight times more than as an array."""
    return (_entry(name, params[name]) for name in sorted(params))


def _entry(name: str, params: QuantParams) -> dict[str, Json]:
    entry: dict[str, Json] = {
        "name": name,
        "output_dtype": params.spec.dtype.name,
        "y_scale": _numbers(params.scale),
        "y_zero_point": _numbers(params.zero_point),
    }
    if params.axis is not None:
        entry["axis"] = params.axis
    if isinstance(params.spec.granularity, PerBlock):
        entry["block_size"] = params.spec.granularity.size
    return entry


def _numbers(array: npt.NDArray[np.generic]) -> Json:
    # float32 -> float64 is exact, and Python prints the shortest text that reads back as the same float64
    numbers: Json = array.tolist()
    return numbers
