"""onnxruntime's own ``quantize_static``, to compare with. The only place that imports onnxruntime.quantization.

QDQ, uint8 activations, int8 weights per channel, min-max: the same scheme as ours, and its fastest one on x86.
"""

from __future__ import annotations

import logging
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import onnx
import onnxruntime as ort

from quantcli.data import InputSpec, open_dataset

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np

OPSET = 13  # the first with per-channel QuantizeLinear


class Samples:
    """Feeds of a representative dataset, one at a time, in the form that ``quantize_static`` reads."""

    def __init__(self, model: Path, dataset: Path, samples: int | None) -> None:
        self._feeds: Iterator = iter(open_dataset(dataset, input_specs(model), samples=samples))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next feed, or None at the end."""
        return next(self._feeds, None)


def quantize(model: Path, dataset: Path, output: Path, *, samples: int | None, one_thread: bool) -> None:
    """Quantize a model file.

    Args:
        model: The float model.
        dataset: What ``quant convert --representative-dataset`` takes.
        output: Where to write.
        samples: At most this many; None for all of the dataset.
        one_thread: Calibrate with one thread that does not spin, as ours does: it has no option for that.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static  # noqa: PLC0415 - it takes a while

    logging.disable(logging.WARNING)  # it recommends pre-processing on the root logger
    if one_thread:
        _restrain()
    quantize_static(
        str(model),
        str(output),
        Samples(model, dataset, samples),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


def calibrate(model: Path, dataset: Path, *, method: str, samples: int) -> list[str]:
    """Calibrate every tensor of a model file on one thread, and return the names of those with a range.

    Args:
        model: The float model.
        dataset: What ``quant convert --representative-dataset`` takes.
        method: ``MinMax``, ``Percentile`` or ``Entropy``.
        samples: At most this many.
    """
    from onnxruntime.quantization import CalibrationMethod, create_calibrator  # noqa: PLC0415 - it takes a while

    logging.disable(logging.WARNING)
    _restrain()
    with TemporaryDirectory() as folder:
        made = create_calibrator(
            model, augmented_model_path=f"{folder}/augmented.onnx", calibrate_method=CalibrationMethod[method]
        )
        made.collect_data(Samples(model, dataset, samples))
        return list(made.compute_data().keys())


def convert_opset(model: Path, output: Path) -> None:
    """Write the model with the first opset that can say per-channel quantization."""
    onnx.save(onnx.version_converter.convert_version(onnx.load(model), OPSET), output)


def input_specs(model: Path) -> list[InputSpec]:
    """Return the inputs that a model file must be fed with."""
    graph = onnx.load(model, load_external_data=False).graph
    held = {i.name for i in graph.initializer}
    return [_spec(i) for i in graph.input if i.name not in held]


def _spec(info: onnx.ValueInfoProto) -> InputSpec:
    tensor = info.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim)
    return InputSpec(info.name, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type), shape)


def _restrain() -> None:
    usual = ort.SessionOptions

    def options() -> ort.SessionOptions:
        made = usual()
        made.intra_op_num_threads = made.inter_op_num_threads = 1
        made.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return made

    ort.SessionOptions = options
