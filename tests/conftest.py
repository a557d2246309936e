"""What every test may ask for."""

from __future__ import annotations

import pytest
from conversion import Bench


@pytest.fixture
def bench(tmp_path):
    """A folder to convert models in."""
    return Bench(tmp_path)
