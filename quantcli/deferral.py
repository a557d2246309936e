"""Puts off what is imported but rarely needed: sympy, with which onnx_ir computes sizes that are expressions.

It takes as long and as much memory as numpy and onnxruntime together, and nothing here computes with such sizes; where
it is needed after all, it is imported then. Must come before the first import of onnx_ir; a later one changes nothing.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import LazyLoader
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

RARELY_NEEDED: Final = frozenset({"sympy", "onnx_ir._symbolic_shapes"})  # the second reads the first when imported


def install() -> None:
    """Let the rarely needed modules be loaded on their first use instead of their import."""
    if not any(isinstance(finder, _Deferring) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Deferring())


class _Deferring:
    """A finder of the import system that wraps the loaders of some modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how a module is loaded; None for those that are loaded as usual."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname in RARELY_NEEDED else None
        if spec is None or spec.loader is None:
            return None
        spec.loader = LazyLoader(spec.loader)
        return spec
