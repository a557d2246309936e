"""What onnxruntime makes of a model file: the operators after its optimizations, and the time that each kind takes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import onnx
import onnxruntime as ort
from latency import feed_of, session_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

RUNS = 60


def operators(model: Path) -> Counter[str]:
    """Return how often each operator stands in the optimized model."""
    with TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        session_of(model, options)
        return Counter(n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node)


def microseconds(model: Path, sample: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the time that each kind of operator takes in one inference."""
    with TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = session_of(model, options)
        feed = feed_of(session, model, sample)
        for _ in range(RUNS):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    spent: dict[str, list[float]] = {}
    for e in events:
        if e.get("cat") == "Node" and e["name"].endswith("_kernel_time"):
            spent.setdefault(f"{e['args']['op_name']} {e['name']}", []).append(float(e["dur"]))
    total: Counter[str] = Counter()
    for key, durations in spent.items():
        total[key.partition(" ")[0]] += sorted(durations)[len(durations) // 2]
    return dict(total)
