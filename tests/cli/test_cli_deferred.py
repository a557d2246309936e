"""What onnx-ir imports for symbolic arithmetic is put off, and there when it is asked for."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from quantcli.cli import deferred
deferred.put_off()
import onnx_ir
loaded = "sympy.core" in sys.modules
total = onnx_ir.SymbolicDim("n") + 1
print(loaded, "sympy.core" in sys.modules, total)
"""


def test_symbolic_arithmetic_is_loaded_when_it_is_needed():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=60)  # noqa: S603
    assert done.stdout.split()[:2] == ["False", "True"]
    assert "n" in done.stdout.rpartition("True")[2]
