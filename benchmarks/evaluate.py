"""Evaluates one model file in a process of its own and prints the metrics as JSON.

python benchmarks/evaluate.py reference ZOO.py NAME MODEL.onnx    what ``evaluate(NAME, MODEL)`` of that file says
python benchmarks/evaluate.py recorded IO.npz MODEL.onnx          against outputs recorded from the float model
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

INTEGERS = {"tensor(int8)": np.int8, "tensor(uint8)": np.uint8}
SQNR = "dB to the recorded outputs"


def reference(script: str, name: str, model: str) -> dict[str, float]:
    """Return the metrics that a reference evaluation computes."""
    spec = importlib.util.spec_from_file_location("reference_evaluation", script)
    if spec is None or spec.loader is None:
        raise SystemExit("the reference evaluation cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {k: float(v) for k, v in module.evaluate(name, model).items()}


def recorded(recording: str, model: str) -> dict[str, float]:
    """Run the recorded inputs and compare the worst output with the recorded one."""
    ort.set_default_logger_severity(4)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    card = card_of(Path(model))
    with np.load(recording, allow_pickle=False) as arrays:
        feed = {i.name: entered(arrays[f"in__{i.name}"], i.type, card.get(i.name)) for i in session.get_inputs()}
        names = [o.name for o in session.get_outputs()]
        found = dict(zip(names, session.run(names, feed), strict=True))
        pairs = [(arrays[f"out__{n}"], _left(found[n], card.get(n))) for n in names if f"out__{n}" in arrays]
    if any(a.shape != b.shape for a, b in pairs):
        raise SystemExit("an output has another shape than the recorded one")
    return {SQNR: min((_sqnr(a, b) for a, b in pairs), default=math.inf)}


def card_of(model: Path) -> dict[str, dict[str, float]]:
    """Return scale, zero point and type of each tensor in the encodings beside a model, by name."""
    beside = model.with_suffix(".encodings.json")
    entries = json.loads(beside.read_text("utf-8"))["encodings"] if beside.exists() else []
    return {e["name"]: e for e in entries}


def entered(x: np.ndarray, kind: str, entry: dict[str, float] | None) -> np.ndarray:
    """Return a float sample as an integer input takes it; ``kind`` is onnxruntime's name of the input's type."""
    if entry is None or kind not in INTEGERS or not np.issubdtype(x.dtype, np.floating):
        return x
    bounds = np.iinfo(INTEGERS[kind])
    steps = np.rint(x / np.float32(entry["y_scale"])) + entry.get("y_zero_point", 0)
    return np.clip(steps, bounds.min, bounds.max).astype(INTEGERS[kind])


def _left(y: np.ndarray, entry: dict[str, float] | None) -> np.ndarray:
    if entry is None or y.dtype.name not in ("int8", "uint8"):
        return y
    return (y.astype(np.float32) - entry.get("y_zero_point", 0)) * np.float32(entry["y_scale"])


def _sqnr(expected: np.ndarray, found: np.ndarray) -> float:
    a, b = expected.astype(np.float64).ravel(), found.astype(np.float64).ravel()
    same = (a == b) | (np.isnan(a) & np.isnan(b))  # infinities that agree are no noise
    if same.all():
        return math.inf
    with np.errstate(invalid="ignore"):
        noise, signal = float(np.sum(np.square((a - b)[~same]))), float(np.sum(np.square(a[np.isfinite(a)])))
    return 10 * math.log10(signal / noise) if signal and math.isfinite(noise) else -math.inf


if __name__ == "__main__":
    chosen = {"reference": reference, "recorded": recorded}[sys.argv[1]]
    metrics = chosen(*sys.argv[2:])
    print(json.dumps({k: v if math.isfinite(v) else None for k, v in metrics.items()}))
