"""Writers of small datasets into a temporary folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from quantcli.data import InputSpec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def write_spec(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "calib.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def write_image(tmp_path: Path) -> Callable[..., np.ndarray]:
    def write(name: str, height: int = 4, width: int = 6, *, seed: int = 0) -> np.ndarray:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / name)
        return pixels

    return write


@pytest.fixture
def floats() -> Callable[..., InputSpec]:
    def spec(*shape: int | str | None, name: str = "x", dtype: str = "float32") -> InputSpec:
        return InputSpec(name, np.dtype(dtype), shape)

    return spec
