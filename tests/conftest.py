"""What every test may ask for."""

from __future__ import annotations

import os

import pytest
from conversion import Bench
from hypothesis import HealthCheck, settings

# How long anything takes is the machine's business: no test fails for it.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

os.environ["QUANT_CACHE_DIR"] = ""  # off, in processes that tests start too: what is tested is computed


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    """A cache for this test alone."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("QUANT_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def bench(tmp_path):
    """A folder to convert models in."""
    return Bench(tmp_path)
