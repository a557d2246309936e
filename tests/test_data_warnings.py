"""What is suspicious is said; what is not, is not."""

from __future__ import annotations

import numpy as np
import pytest

from quantcli import data_warnings
from quantcli.color_order import Orders
from quantcli.exercise import Exercise, Idle
from quantcli.feed_statistics import Gathering

MEAN, STD = np.array([0.485, 0.456, 0.406])[:, None, None], np.array([0.229, 0.224, 0.225])[:, None, None]


def pixels(count=40):
    """Smooth coloured pictures, 0 to 255."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:16, 0:16]
    for _ in range(count):
        a, b, c = rng.uniform(0, 0.6, (3, 3, 1, 1))
        yield np.rint(127.5 + 127.5 * np.sin(a * x + b * y + 6 * c))


def summary(formula, dtype=np.float32, count=40):
    gathering = Gathering("x")
    for image in pixels(count):
        gathering.add(formula(image)[None].astype(dtype))
    return gathering.summary()


def said(formula, dtype=np.float32):
    return list(data_warnings.of_samples(40, 0, [summary(formula, dtype)]))


RIGHT = {
    "pixels": lambda x: x,
    "unit": lambda x: x / 255,
    "signed": lambda x: x / 127.5 - 1,
    "torch": lambda x: (x / 255 - MEAN) / STD,
    "caffe": lambda x: x - 120,
}


@pytest.mark.parametrize("formula", RIGHT.values(), ids=RIGHT)
def test_usual_preprocessing_is_not_suspicious(formula):
    assert said(formula) == []


@pytest.mark.parametrize(
    ("formula", "words"),
    [
        (lambda x: x / 255 / 255, "normalised twice?"),
        (lambda x: x / 255 / 127.5 - 1, "normalised twice?"),
        (lambda x: (x / 127.5 - 1) / 127.5 - 1, "normalised twice?"),
        (lambda x: (x / 255 / 255 - MEAN) / STD, "normalised twice?"),
        (lambda x: ((x / 255 - MEAN) / STD - MEAN) / STD, "mean and standard deviation taken twice?"),
        (lambda x: (x - MEAN) / STD, "but not by 255?"),
        (lambda x: np.moveaxis(x / 255, 0, -1).reshape(3, 16, 16), "its numbers lie as NHWC images do"),
        (lambda x: x * np.array([1, 0, 1])[:, None, None], "channel 1 is constant"),
        (lambda x: 0 * x + 3, "is 3 everywhere"),
    ],
)
def test_unusual_preprocessing_is_told(formula, words):
    assert words in " ".join(said(formula))


def test_integers_are_not_normalised():
    assert said(lambda x: x, np.uint8) == []


@pytest.mark.parametrize(("count", "told"), [(31, 1), (32, 0)])
def test_few_samples_are_told(count, told):
    assert len(list(data_warnings.of_samples(count, 0, []))) == told


def test_repeated_samples_are_told():
    (message,) = data_warnings.of_samples(40, 3, [])
    assert "3 of 40 samples are equal to another one" in message


def scaling(formula, factor, dtype=np.float32):
    return " ".join(data_warnings.of_scaling([summary(formula, dtype)], {"x": factor}))


@pytest.mark.parametrize(
    ("formula", "factor", "words"),
    [
        ("unit", 1 / 255, "normalised twice? It expects 0..255"),
        ("signed", 1 / 127.5, "normalised twice?"),
        ("torch", 0.017, "normalised twice?"),
        ("pixels", 4.37, "it expects 0..1, not pixels"),
        ("pixels", None, "raw pixels, and the model does not scale them"),
        ("pixels", 1 / 255, ""),
        ("caffe", 1 / 58.0, ""),
        ("unit", 4.37, ""),
        ("unit", None, ""),
        ("signed", 1.0, ""),
    ],
)
def test_the_models_own_scaling_is_held_against_what_is_fed(formula, factor, words):
    found = scaling(RIGHT[formula], factor)
    assert words in found
    assert bool(words) == bool(found)


def test_an_input_that_is_no_image_has_no_scaling():
    gathering = Gathering("x")
    gathering.add(np.linspace(0, 1, 8, dtype=np.float32)[None])
    assert list(data_warnings.of_scaling([gathering.summary()], {"x": 1 / 255})) == []


def test_idle_channels_are_counted():
    found = Exercise((Idle("Relu", "r", "y", 2, 1, 8), Idle("Mul", "m", "z", 0, 0, 0)), (("if", "else_branch"),))
    assert list(data_warnings.of_exercise(found)) == [
        "Relu 'r': 2 of 8 channels always 0 and 1 of 8 channels always one value: these samples do not exercise them",
        "Mul 'm': its result 'z' is the same in all samples: nothing there is calibrated",
        "If 'if': no sample takes its else_branch: what is in there is not calibrated",
    ]


def test_a_long_list_is_cut():
    many = Exercise(tuple(Idle("Relu", f"r{i}", "y", 1, 0, 8) for i in range(20)))
    assert list(data_warnings.of_exercise(many))[-1] == "and 12 more tensors with channels that never change"


@pytest.mark.parametrize(
    ("orders", "told"),
    [
        (Orders(100, 40, 80, 45, 5), True),
        (Orders(100, 80, 40, 5, 45), False),
        (Orders(100, 50, 53, 13, 10), False),
        (Orders(100, 50, 50, 0, 0), False),
        (None, False),
    ],
)
def test_exchanged_channels_are_told_when_chance_does_not_explain_it(orders, told):
    found = list(data_warnings.of_orders("x", orders))
    assert bool(found) is told
    if told:
        assert "40 of 100 samples are classified rightly, 80 with red and blue exchanged" in found[0]
