"""A Python face in the shape of ``tf.lite.TFLiteConverter``, for those who know that one; thin over ``api``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from quantcli import files
from quantcli.api import Result, convert
from quantcli.errors import OutputError
from quantcli.options import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    Sample = Mapping[str, npt.NDArray[np.generic]] | Sequence[npt.NDArray[np.generic]]


@dataclass(slots=True)
class Converter:
    """Converts one model; set the attributes, then call ``convert``.

    Attributes:
        model: The float ONNX file.
        mode: Name of a mode.
        representative_dataset: A function that yields samples: a mapping by input name, or a list in input order.
        inference_input_type: ``float32``, ``int8`` or ``uint8``; None is the mode's.
        inference_output_type: Likewise.
    """

    model: str | Path
    mode: str = "int8-only"
    representative_dataset: Callable[[], Iterable[Sample]] | None = None
    inference_input_type: str | None = None
    inference_output_type: str | None = None

    @classmethod
    def from_onnx(cls, model: str | Path) -> Converter:
        """Return a converter for an ONNX file."""
        return cls(model)

    def convert(self, output: str | Path | None = None) -> bytes:
        """Convert and return the quantized model; write it with its encodings and report if ``output`` is given.

        Raises:
            QuantError: The conversion failed; nothing was written.
        """
        if output is not None:
            return self._to(Path(output)).read_bytes()
        with TemporaryDirectory() as folder:
            written = self._to(Path(folder) / f"{Path(self.model).stem}.onnx")
            if files.data_file(written).exists():
                raise OutputError(
                    f"{self.model}: the result is too large for one file and cannot be returned as bytes alone",
                    hint="give convert() an output; the weights are written into a second file beside it",
                )
            return written.read_bytes()

    def _to(self, output: Path) -> Path:
        options = Options(input_type=self.inference_input_type, output_type=self.inference_output_type)
        result: Result = convert(
            self.model,
            mode=self.mode,
            representative_dataset=self.representative_dataset,
            output=output,
            options=options,
        )
        return result.output or output
