"""What is rarely needed is imported when it is needed, and works then."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOADED = "import sys; print('sympy.core' in sys.modules)"
CONVERTING = """
import quantcli
import numpy, onnx_ir as ir
x = ir.Value(name='x', type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(['batch', 4]))
w = ir.Value(name='w', const_value=ir.tensor(numpy.eye(4, dtype=numpy.float32), name='w'))
node = ir.node('MatMul', [x, w])
node.outputs[0].name = 'y'
graph = ir.Graph([x], [node.outputs[0]], nodes=[node], initializers=[w], opset_imports={'': 17}, name='g')
ir.save(ir.Model(graph, ir_version=8), 'm.onnx')
numpy.savez('data.npz', x=numpy.ones((8, 4), numpy.float32))
quantcli.convert('m.onnx', mode='full-integer', representative_dataset='data.npz', output='q.onnx')
"""
EXPRESSIONS = "import quantcli, onnx_ir as ir; print(ir.SymbolicDim('n') + 2, ir.SymbolicDim('n*2'))"
USERS_OWN = "import quantcli, onnx_ir, sympy; print(sympy.symbols('n') + 1)"


@pytest.mark.parametrize("code", ["import quantcli, onnx_ir", CONVERTING])
def test_the_algebra_of_sizes_is_not_loaded_without_need(code: str, tmp_path) -> None:
    assert _printed(f"{code}\n{LOADED}", tmp_path) == "False"


@pytest.mark.parametrize(("code", "expected"), [(EXPRESSIONS, "n + 2 n*2"), (USERS_OWN, "n + 1")])
def test_it_is_there_when_it_is_needed(code: str, expected: str, tmp_path) -> None:
    assert _printed(code, tmp_path) == expected


def test_modules_that_are_loaded_already_stay(tmp_path) -> None:
    assert _printed(f"import sympy, quantcli\n{LOADED}", tmp_path) == "True"


def _printed(code: str, folder) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder).stdout.strip()  # noqa: S603 - our own code
