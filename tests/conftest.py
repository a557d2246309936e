"""What every test may ask for."""

from __future__ import annotations

import pytest
from conversion import Bench
from hypothesis import HealthCheck, settings

# How long anything takes is the machine's business: no test fails for it.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture
def bench(tmp_path):
    """A folder to convert models in."""
    return Bench(tmp_path)
