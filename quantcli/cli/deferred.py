"""Puts off what onnx-ir imports for arithmetic of symbolic dimensions: sympy, half of the tool's start-up time.

The command line alone does so, before anything else is imported; whoever imports quantcli gets his modules as they are.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

PUT_OFF = ("sympy", "onnx_ir._symbolic_shapes")


class Deferred(ModuleType):
    """Stands for a module until one of its names is asked for."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        real = importlib.import_module(self.__name__)
        self.__dict__.update(real.__dict__)
        return getattr(real, name)


def put_off() -> None:
    """Defer the modules that are not loaded yet."""
    for name in PUT_OFF:
        if name not in sys.modules:
            sys.modules[name] = Deferred(name)
