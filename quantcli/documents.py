"""The documents that a conversion leaves: encodings, report, the model's metadata. Values in, JSON-able values out."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING, Final

import quantcli
from quantcli import encodings as schema
from quantcli import files, graph, runtime

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import onnx_ir as ir

    from quantcli.encodings import Json
    from quantcli.quant import QuantParams
    from quantcli.state import State

PREFIX: Final = "quantcli."


def sidecars(target: Path) -> tuple[Path, Path]:
    """Return where encodings and report stand beside a model."""
    stem = target.name.removesuffix(".onnx")
    return target.with_name(f"{stem}.encodings.json"), target.with_name(f"{stem}.report.json")


def text(document: Mapping[str, Json]) -> str:
    """Return a document as JSON text; numbers that JSON cannot say become null."""
    return json.dumps(_sayable(dict(document)), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


@dataclass(frozen=True, slots=True)
class Text:
    """A document as the contents of a file.

    Attributes:
        document: The document, or what stands around its encodings.
        params: The encodings, to be entered one by one: all of them together may be larger than the model.
    """

    document: Mapping[str, Json]
    params: Mapping[str, QuantParams] = field(default_factory=dict)

    def write_to(self, stream: IO[bytes]) -> None:
        """Write the text of the document."""
        for part in self._parts():
            stream.write(part.encode())

    def _parts(self) -> Iterator[str]:
        if not self.params:
            yield text(self.document)
            return
        before, _, after = text({**self.document, "encodings": [None]}).partition("null")
        yield before
        for index, entry in enumerate(schema.entries_of(self.params)):
            shown = json.dumps(_sayable(entry), indent=1, ensure_ascii=False, allow_nan=False)
            yield (",\n  " if index else "") + shown.replace("\n", "\n  ")
        yield after


def provenance(state: State, path: Path) -> dict[str, Json]:
    """Return what decides the result: versions, mode, and the digests of model, data and recipe."""
    seen = state.observations
    return {
        "version": quantcli.__version__,
        "onnxruntime": runtime.version(),
        "mode": state.recipe.name,
        "format": state.recipe.format,
        "model_sha256": files.sha256(path),
        **({"weights_sha256": beside} if (beside := _weights_digests(state, path)) else {}),
        "data_sha256": seen.digest() if seen is not None else None,
        "data": seen.description if seen is not None else None,
        "random_data": is_random(state),
        "recipe_sha256": hashlib.sha256(state.recipe.compact().encode()).hexdigest(),
        "coverage": dict(state.report.count()),
        "equalized": list(state.report.equalized),
    }


def _weights_digests(state: State, path: Path) -> dict[str, Json]:
    """Return the digest of every file beside the model that holds weights, by name."""
    beside = files.external_files(state.original, path)
    return {place.relative_to(path.parent).as_posix(): files.sha256(place) for place in beside}


def stamped(state: State, facts: Mapping[str, Json]) -> ir.Model:
    """Return the quantized model with our metadata beside the user's: version, mode, recipe and the I/O card."""
    if state.quantized is None:
        raise ValueError("nothing was emitted")
    model = state.quantized.model.clone()
    source = state.original
    model.producer_name, model.producer_version = source.producer_name, source.producer_version
    model.domain, model.model_version, model.doc_string = source.domain, source.model_version, source.doc_string
    model.graph.name, model.graph.doc_string = source.graph.name, source.graph.doc_string
    model.metadata_props.update(source.metadata_props)
    card = {name: io_entry(params) for name, params in sorted(state.quantized.boundary.items())}
    own = {
        "version": str(facts["version"]),
        "mode": state.recipe.name,
        "recipe": state.recipe.compact(),
        "random_data": str(facts["random_data"]).lower(),
        "io": json.dumps(card),
    }
    model.metadata_props.update({PREFIX + k: v for k, v in own.items()})
    _forget_types(model, source)
    return model


def _forget_types(model: ir.Model, original: ir.Model) -> None:
    """Leave out the types of tensors inside the graph that the user's file does not say either: they cost bytes."""
    said = {v.name for v in _computed_in(original) if v.type is not None or v.shape is not None}
    constants = (v for within in graph.all_graphs(model) for v in within.initializers.values())
    for value in (*_computed_in(model), *constants):
        if value.name not in said and not value.is_graph_output() and not value.is_graph_input():
            value.type = value.shape = None


def _computed_in(model: ir.Model) -> Iterator[ir.Value]:
    yield from (v for node in model.graph.all_nodes() for v in node.outputs)


# ---- the report ------------------------------------------------------------------------------------------------------


def is_random(state: State) -> bool:
    """Tell whether made-up samples decided the result; a mode without calibration only verifies on them."""
    return state.recipe.needs_data and state.observations is not None and state.observations.synthetic


def io_entry(params: QuantParams) -> dict[str, Json]:
    """Return the line of the I/O card for one integer input or output."""
    return {
        "dtype": params.spec.dtype.name,
        "scale": float(params.scale),
        "zero_point": int(params.zero_point),
    }


def encodings(state: State, facts: Mapping[str, Json]) -> dict[str, Json]:
    """Return the encodings document."""
    return schema.to_json(state.quantized.params if state.quantized else {}, facts)


def external_bytes(model: ir.Model) -> int:
    """Return the size of the weights that lie beside the model file."""
    return sum(int(tensor.nbytes) for _, tensor in graph.external_constants(model))


def report(state: State, path: Path, sizes: tuple[int, int] | None) -> dict[str, Json]:
    """Return the report document; timings are left out of it, because the same conversion gives the same bytes."""
    r = state.report
    document: dict[str, Json] = {
        "mode": state.recipe.name,
        "format": state.recipe.format,
        "model": path.name,
        "data": state.observations.description if state.observations else None,
        "random_data": is_random(state),
        "coverage": dict(r.count()),
        "work": _work(state),
        "ledger": [
            {"node": e.node, "op_type": e.op_type, "fate": e.fate, "kernel": e.kernel, "reason": e.reason}
            | ({"macs": e.macs} if e.macs else {})
            for e in r.ledger.values()
        ],
        "inputs": {
            n: {"min": s.min, "max": s.max, "mean": s.mean, "std": s.std, "values": s.count} for n, s in r.feeds.items()
        },
        "ranges": {n: [low, high] for n, (low, high) in sorted(r.ranges.items())},
        "parity_db": r.parity_db,
        "warnings": list(r.warnings),
        "notes": list(r.notes),
    }
    if sizes is not None:
        document["sizes"] = {"float_bytes": sizes[0], "quantized_bytes": sizes[1], "ratio": sizes[1] / max(sizes[0], 1)}
    if state.quantized is not None:
        document["portability"] = _portability(state)
        document["io"] = {n: io_entry(p) for n, p in sorted(state.quantized.boundary.items())}
    if r.verification is not None:
        v = r.verification
        document["verification"] = {
            "samples": v.samples,
            "outputs": {
                n: {
                    "sqnr_db": q.sqnr_db,
                    "cosine": q.cosine,
                    "max_error": q.max_error,
                    "top1_agreement": q.top1_agreement,
                }
                for n, q in v.outputs.items()
            },
            "optimized_against_plain_rms_steps": v.optimized_rms_steps,
            "kernels": dict(v.kernels),
            **({"top1": asdict(r.accuracy)} if r.accuracy is not None else {}),
        }
    return document


def _work(state: State) -> dict[str, Json] | None:
    """Return the multiply-accumulates of one sample and the share that is computed in integers."""
    integers, total = state.report.work()
    return {"macs": total, "integer_macs": integers, "integer_share": integers / total} if total else None


def _portability(state: State) -> dict[str, Json]:
    """Return which integer products are exact on x86 CPUs without VNNI too."""
    found = state.report.products
    return {
        "portable": state.recipe.portable,
        "products": len(found),
        "may_saturate_without_vnni": sum(not p.exact for p in found),
        "weights": [asdict(p) for p in found],
    }


def _sayable(value: Json) -> Json:
    if isinstance(value, dict):
        return {k: _sayable(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_sayable(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
