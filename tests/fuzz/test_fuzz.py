"""A few of the random models that `make fuzz` makes without end: every mode converts them or says why not."""

from __future__ import annotations

import pytest
from attempts import broken, forms
from random_models import made

from quantcli import modes

SEEDS = range(1000, 1024)  # which of them give no valid model is decided by the runtime


def test_every_mode_is_fuzzed():
    assert {form.mode for form in forms()} == set(modes.names())


def test_a_seed_says_everything():
    first, second = (next(c for c in map(made, SEEDS) if c is not None) for _ in range(2))
    assert first.model.SerializeToString() == second.model.SerializeToString()


def test_most_seeds_give_a_model():
    assert sum(made(seed) is not None for seed in SEEDS) > len(SEEDS) // 2


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_model_is_converted_as_promised_or_refused_with_reasons(seed):
    case = made(seed)
    found = broken(case, forms()) if case is not None else []
    assert not found, "\n".join(map(str, found))
