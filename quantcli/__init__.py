"""quantcli: float ONNX models become verified integer or smaller ones.

The public names are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantcli.api import Options as Options
    from quantcli.api import Result as Result
    from quantcli.api import advise as advise
    from quantcli.api import convert as convert
    from quantcli.api import convert_all as convert_all
    from quantcli.api import convert_signatures as convert_signatures
    from quantcli.converter import Converter as Converter
    from quantcli.errors import QuantError as QuantError

__version__ = "0.1.0"

__all__ = [
    "Converter",
    "Options",
    "QuantError",
    "Result",
    "__version__",
    "advise",
    "convert",
    "convert_all",
    "convert_signatures",
]

_HOMES = {
    "Converter": "quantcli.converter",
    "Options": "quantcli.api",
    "QuantError": "quantcli.errors",
    "Result": "quantcli.api",
    "advise": "quantcli.api",
    "convert": "quantcli.api",
    "convert_all": "quantcli.api",
    "convert_signatures": "quantcli.api",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'quantcli' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
