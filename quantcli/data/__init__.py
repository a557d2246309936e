"""The representative dataset: what is fed to the model during calibration, one sample at a time.

Knows numpy, images and YAML; must not know onnx or onnxruntime.
"""

from __future__ import annotations

from quantcli.data.batches import batch_size, rows
from quantcli.data.dataset import RepresentativeDataset
from quantcli.data.guessing import guess_inputs
from quantcli.data.inputs import Feed, InputSpec
from quantcli.data.memory import from_arrays, from_callable
from quantcli.data.opening import open_dataset, open_signature
from quantcli.data.signatures import Signature, Signatures, is_signatures, read_signatures
from quantcli.data.synthetic import NATURAL, guesses, random_dataset

__all__ = [
    "NATURAL",
    "Feed",
    "InputSpec",
    "RepresentativeDataset",
    "Signature",
    "Signatures",
    "batch_size",
    "from_arrays",
    "from_callable",
    "guess_inputs",
    "guesses",
    "is_signatures",
    "open_dataset",
    "open_signature",
    "random_dataset",
    "read_signatures",
    "rows",
]
