"""quantcli: float ONNX models become verified integer ones.

The public names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantcli.api import Result as Result
    from quantcli.api import convert as convert
    from quantcli.converter import Converter as Converter
    from quantcli.errors import QuantError as QuantError

__version__ = "0.1.0"

__all__ = ["Converter", "QuantError", "Result", "__version__", "convert"]

_HOMES = {
    "Converter": "quantcli.converter",
    "QuantError": "quantcli.errors",
    "Result": "quantcli.api",
    "convert": "quantcli.api",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'quantcli' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
