"""Runs one conversion in this fresh process, and writes what the whole process cost.

python benchmarks/measured.py RESULT.json '{"kind": "ours" | "calibrate" | "peer" | "peer_calibrate" | "opset", ...}'

Cost is taken from inside: what a parent sees of a child's peak memory may be its own.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process took; ``error`` is empty where it did its work."""

    error: str
    cpu_seconds: float = 0.0
    seconds: float = 0.0
    peak_bytes: int = 0


def run(folder: Path, job: dict, *, timeout: float = 900) -> Cost:
    """Do a job in a fresh process and return what it cost; the first of its kind fills a cache beside ``folder``."""
    result = folder / "cost.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, __file__, str(result), json.dumps(job)]
    began = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout, check=False, env=_compiled(folder))
    except subprocess.TimeoutExpired:
        return Cost(f"not done after {timeout:g} s")
    seconds = time.perf_counter() - began
    if done.returncode or not result.exists():
        words = done.stderr.decode(errors="replace").strip().splitlines()
        errors = [w for w in words if w.startswith("error:")] or words[-1:] or [f"exit code {done.returncode}"]
        return Cost(errors[0])
    cost = json.loads(result.read_text("utf-8"))
    return Cost("", cost["cpu_seconds"], seconds, cost["peak_bytes"])


def _compiled(folder: Path) -> dict[str, str]:
    """Return an environment with compiled modules, as an installed package has, and without what was seen before."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**environment, "PYTHONPYCACHEPREFIX": str(folder.parent / "compiled"), "QUANT_CACHE_DIR": ""}


def main(result: str, text: str) -> int:
    job = json.loads(text)
    kind = job.pop("kind")
    kinds = {"ours": _ours, "calibrate": _calibrate, "peer": _peer, "peer_calibrate": _peer_calibrate, "opset": _opset}
    code = kinds[kind](**job)
    times = os.times()
    cost = {"cpu_seconds": sum(times[:4]), "peak_bytes": _peak_bytes()}
    Path(result).write_text(json.dumps(cost), "utf-8")
    return code


def _ours(arguments: list[str]) -> int:
    from quantcli.cli import boundary, quant  # noqa: PLC0415 - only what the job needs is paid for

    return boundary.run(quant, arguments)


def _peer(model: str, dataset: str, output: str, **options: int | bool | None) -> int:
    import peer  # noqa: PLC0415 - as above

    peer.quantize(Path(model), Path(dataset), Path(output), **options)
    return 0


def _calibrate(model: str, dataset: str, **options: str | int) -> int:
    from quantcli.cli import deferred  # noqa: PLC0415 - as above

    deferred.put_off()  # as the command line does
    import calibrating  # noqa: PLC0415 - as above

    return len(calibrating.ranges(Path(model), Path(dataset), **options)) == 0


def _peer_calibrate(model: str, dataset: str, **options: str | int) -> int:
    import peer  # noqa: PLC0415 - as above

    return len(peer.calibrate(Path(model), Path(dataset), **options)) == 0


def _opset(model: str, output: str) -> int:
    import peer  # noqa: PLC0415 - as above

    peer.convert_opset(Path(model), Path(output))
    return 0


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
