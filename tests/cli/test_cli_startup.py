"""Help is quick because it loads nothing heavy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("numpy", "onnx", "onnxruntime", "onnx_ir", "rich", "PIL", "yaml")
PROBE = """
import json, sys, time
began = time.perf_counter()
sys.argv = ["quant", *json.loads(sys.argv[1])]
from quantcli.cli import main
try:
    main()
finally:
    seconds = time.perf_counter() - began
    print(json.dumps({"modules": sorted(sys.modules), "seconds": seconds}), file=sys.stderr)
"""


def probe(*arguments: str) -> dict:
    command = [sys.executable, "-c", PROBE, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 - ours
    return json.loads(done.stderr.splitlines()[-1]) | {"code": done.returncode, "out": done.stdout}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("convert", "--help"),
        ("advise", "--help"),
        ("modes", "--help"),
        ("modes", "show", "--help"),
    ],
    ids=" ".join,
)
def test_help_loads_nothing_heavy(arguments):
    seen = probe(*arguments)
    print(f"quant {' '.join(arguments)}: {seen['seconds'] * 1000:.0f} ms")  # noqa: T201 - times vary: shown, not asserted
    assert (seen["code"], [m for m in HEAVY if m in seen["modules"]]) == (0, [])


def test_group_help_imports_no_command():
    assert "quantcli.cli.convert" not in probe("--help")["modules"]


def test_usage_errors_load_nothing_heavy():
    seen = probe("convert", "--samples", "0")
    assert (seen["code"], [m for m in HEAVY if m in seen["modules"]]) == (2, [])


def test_piped_modes_load_no_rich():
    seen = probe("modes")
    assert (seen["code"], "rich" in seen["modules"]) == (0, False)


def test_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "quantcli", "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("quant ")
