"""The list of silent wrong answers has fifty numbers, and each of them a test of its own in this folder."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

NUMBERS = range(1, 51)


def named():
    """The numbers in the names of the tests of this folder, with those tests."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("test_silent_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and (match := re.match(r"test((?:_s\d\d)+)_", node.name)):
                for number in re.findall(r"\d\d", match[1]):
                    found.setdefault(int(number), []).append(node)
    return found


CHECKS = {"as_form", "loads_and_is_faithful", "check_product"}  # functions that assert for the test


def asserts(node):
    called = {n.func.id for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    return bool(called & CHECKS) or any(isinstance(n, ast.Assert) for n in ast.walk(node))


@pytest.mark.parametrize("number", NUMBERS)
def test_every_number_has_a_test_that_asserts(number):
    assert any(asserts(node) for node in named().get(number, [])), f"S{number} has no test"


def test_no_other_number_is_named():
    assert set(named()) == set(NUMBERS)


def test_no_two_tests_have_one_name():
    names = [node.name for node in {n.name + str(n.lineno): n for ns in named().values() for n in ns}.values()]
    assert len(names) == len(set(names))
