"""Converts a model that is larger than protobuf holds, and prints what memory it takes: ``make big``.

The model is a chain of MatMul, Tanh and Add whose weights lie in a sparse file: it takes gigabytes and no disk. Each
conversion runs in a process of its own. Two figures are told: what memory must hold (anonymous pages), and all pages
that were mapped at once, those of the files included, which the system takes back when it needs room. Beside them
stands what onnxruntime alone takes to load the float model as a user would and to run it once.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

ROWS = 16  # of each weight that are not zero: the file stays sparse
MODES = ("none", "float16", "dynamic-range", "weight-only-int8", "weight-only-int4", "full-integer")
ALONE = """
import sys, numpy as np, onnxruntime as ort
session = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(None, {"x": np.ones((1, int(sys.argv[2])), np.float32)})
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a process took: MiB of anonymous and of all pages at their peaks, and seconds."""

    code: int
    anonymous: float
    mapped: float
    seconds: float


def generate(folder: Path, layers: int, width: int, opset: int) -> Path:
    """Write the model with its data file; return its path."""
    size = 4 * width * width
    rng = np.random.default_rng(0)
    with (folder / "big.data").open("wb") as stream:
        for layer in range(layers):
            stream.seek(layer * size)
            stream.write(rng.standard_normal((ROWS, width), np.float32).tobytes())
        stream.truncate(layers * size)
    nodes, constants, last = [], [], "x"
    for layer in range(layers):
        made = "y" if layer == layers - 1 else f"v{layer}"
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"], name=f"matmul{layer}"))
        nodes.append(helper.make_node("Tanh", [f"m{layer}"], [f"t{layer}"], name=f"tanh{layer}"))
        nodes.append(helper.make_node("Add", [f"t{layer}", last], [made], name=f"add{layer}"))
        constant = TensorProto(name=f"w{layer}", data_type=TensorProto.FLOAT, dims=[width, width])
        constant.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "big.data"), ("offset", layer * size), ("length", size)):
            constant.external_data.add(key=key, value=str(value))
        constants.append(constant)
        last = made
    fed, left = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", width]) for n in "xy")
    graph = helper.make_graph(nodes, "chain", [fed], [left], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    (folder / "big.onnx").write_bytes(model.SerializeToString())
    return folder / "big.onnx"


def taken(command: list[str], log: Path) -> Taken:
    """Run a command, and watch what memory it takes."""
    began, peak = time.monotonic(), [0.0]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        watcher = threading.Thread(target=_watch, args=(process.pid, peak))
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # it is waited for already
    watcher.join()
    return Taken(process.returncode, peak[0], usage.ru_maxrss / 1024, time.monotonic() - began)


def _watch(process: int, peak: list[float]) -> None:
    while True:
        try:
            found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
        except OSError:
            return
        if found is None:  # it has ended
            return
        peak[0] = max(peak[0], int(found[1]) / 1024)
        time.sleep(0.02)


def converted(source: Path, mode: str, folder: Path) -> tuple[Taken, str]:
    """Convert in one mode; return what that took, and what was written."""
    target = folder / f"{mode}.onnx"
    command = [
        sys.executable,
        "-m",
        "quantcli",
        "convert",
        str(source),
        "--mode",
        mode,
        "--no-cache",
        "-o",
        str(target),
    ]
    if mode == "full-integer":
        command += ["--random-data", "4"]
    found = taken(command, folder / "log")
    if found.code != 0:
        return found, " | ".join((folder / "log").read_text("utf-8").strip().splitlines()[-3:])
    checked = onnx.load(target, load_external_data=False)
    files = {p.name: p.stat().st_size for p in folder.glob(f"{mode}.onnx*")}
    said = ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in sorted(files.items()))
    for path in folder.glob(f"{mode}.*"):
        path.unlink()
    return found, f"{len(checked.graph.node)} operators; {said}"


def _row(name: str, found: Taken, said: str) -> str:
    return f"{name:24}{found.anonymous:12.0f}{found.mapped:12.0f}{found.seconds:10.0f}  {said}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--opset", type=int, default=21, help="11 shows that the opset is converted without weights")
    parser.add_argument("--modes", nargs="+", default=MODES)
    asked = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = generate(folder, asked.layers, asked.width, asked.opset)
        size = asked.layers * 4 * asked.width**2 / 2**20
        print(f"{asked.layers} products of {asked.width} x {asked.width}, {size:.0f} MiB, opset {asked.opset}")
        print(f"{'':24}{'must hold':>12}{'mapped':>12}{'seconds':>10}  MiB at the peak; what was written")
        alone = taken([sys.executable, "-c", ALONE, str(source), str(asked.width)], folder / "log")
        print(_row("(onnxruntime, float)", alone, "loads the model and runs it once"), flush=True)
        for mode in asked.modes:
            found, said = converted(source, mode, folder)
            print(_row(mode, found, said), flush=True)
            failed += found.code != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
