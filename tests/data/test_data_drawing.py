"""Made-up samples: pictures with edges and flat parts, fields of a given size, the same ones for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from quantcli.data import InputSpec, random_dataset
from quantcli.data.drawing import LEAVES, NOISE, SMOOTH, Look, dead_leaves, draw
from quantcli.data.made import made_dataset, made_samples

F32, I64 = np.dtype("float32"), np.dtype("int64")


def rng(seed=0):
    return np.random.default_rng(seed)


def test_pictures_use_the_range_from_0_to_1():
    pictures = np.stack([dead_leaves(rng(i), 48, 64, 3) for i in range(8)])
    assert pictures.shape == (8, 48, 64, 3)
    assert pictures.dtype == np.float32
    assert pictures.min() == 0.0
    assert pictures.max() == 1.0
    assert 0.15 < pictures.std() < 0.4


def test_pictures_have_flat_parts_and_edges():
    """Neighbours are nearly alike in most places and very different in a few; of noise neither is true."""
    steps = np.abs(np.diff(dead_leaves(rng(), 96, 96, 1)[..., 0], axis=1))
    noise = np.abs(np.diff(rng().random((96, 96)), axis=1))
    assert np.median(steps) < np.median(noise) / 4
    assert np.percentile(steps, 99) > 5 * np.median(steps)


@pytest.mark.parametrize(("shape", "axis"), [((1, 3, 32, 40), 1), ((2, 32, 40, 3), 3)])
def test_channels_have_scales_of_their_own(shape, axis):
    look = Look(LEAVES, (1.0, 2.0, 4.0), (0.0, 0.0, -8.0), axis)
    found = np.moveaxis(draw(rng(), shape, look), axis, 0).reshape(3, -1)
    assert found[0].min() >= 0.0
    assert found[0].max() <= 1.0
    assert 1.0 < found[1].max() <= 2.0
    assert found[2].min() >= -8.0
    assert found[2].max() <= -4.0


@pytest.mark.parametrize("pattern", [NOISE, SMOOTH])
def test_fields_have_the_deviation_that_is_asked_for(pattern):
    found = draw(rng(), (1, 64, 64), Look(pattern, (3.0,)))
    assert found.std() == pytest.approx(3.0, rel=0.1)
    assert found.dtype == np.float32


def test_neighbours_in_a_smooth_field_are_alike():
    smooth, noise = (draw(rng(), (1, 4096), Look(p))[0] for p in (SMOOTH, NOISE))
    assert np.corrcoef(smooth[1:], smooth[:-1])[0, 1] > 0.5 > abs(np.corrcoef(noise[1:], noise[:-1])[0, 1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 0), (0, 4), (), (3,)])
@pytest.mark.parametrize("pattern", [NOISE, SMOOTH])
def test_any_shape_can_be_drawn(pattern, shape):
    assert draw(rng(), shape, Look(pattern)).shape == shape


INPUTS = [InputSpec("x", F32, (1, 3, 16, 16)), InputSpec("i", I64, (1, 50)), InputSpec("n", I64, (1, 50))]
LOOKS = {"x": [Look(LEAVES), Look(LEAVES, (2.0,), (-1.0,))]}


def test_the_same_samples_come_out_each_time():
    base = random_dataset(INPUTS, 6)
    assert made_dataset(base, INPUTS, LOOKS, {"i": 9}).digest() == made_dataset(base, INPUTS, LOOKS, {"i": 9}).digest()


def test_looks_take_turns_and_tables_are_used_up():
    made = list(made_samples(random_dataset(INPUTS, 6), INPUTS, LOOKS, {"i": 9}))
    assert [m["x"].min() < 0 for m in made] == [False, True] * 3
    assert {int(v) for m in made for v in m["i"].ravel()} == set(range(9))
    assert {int(v) for m in made for v in m["n"].ravel()} == {0, 1}


def test_a_dataset_says_what_it_is():
    data = made_dataset(random_dataset(INPUTS, 2), INPUTS, LOOKS, {})
    assert data.synthetic
    assert len(data) == 2
    assert data.description == "data-free (2 samples; 'x': pictures from 0 to 1, pictures from -1 to 1)"
