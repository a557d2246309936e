"""A contact sheet shows pixels again, whatever formula they were fed through."""

from __future__ import annotations

import numpy as np
import pytest

from quantcli.contact_sheet import GAP, MOST, TILE, sheet
from quantcli.feed_statistics import Gathering

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
FORMULAS = {
    "pixels": lambda x: x,
    "unit": lambda x: x / 255,
    "signed": lambda x: x / 127.5 - 1,
    "torch": lambda x: (x / 255 - MEAN) / STD,
}


def picture(height=TILE, width=TILE):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.float64)
    pixels[0, 0], pixels[0, 1] = 0, 255  # the whole range, as a set of images has it
    return pixels


def sheet_of(*images):
    gathering = Gathering("x")
    for image in images:
        gathering.add(image)
    return sheet(images, gathering.summary())


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
def test_pixels_come_back(formula, layout):
    pixels = picture()
    fed = formula(pixels)[None].astype(np.float32)
    page = sheet_of(fed if layout == "NHWC" else fed.transpose(0, 3, 1, 2))
    assert (page.dtype, page.shape) == (np.uint8, (TILE + 2 * GAP, TILE + 2 * GAP, 3))
    assert np.abs(page[GAP:-GAP, GAP:-GAP].astype(int) - pixels).max() <= 1


def test_integers_are_shown_as_they_are():
    pixels = picture()
    np.testing.assert_array_equal(sheet_of(pixels[None].astype(np.uint8))[GAP:-GAP, GAP:-GAP], pixels)


def test_other_numbers_are_stretched():
    page = sheet_of((picture() * 100 - 7000)[None].astype(np.float32))[GAP:-GAP, GAP:-GAP]
    assert (page.min(), page.max()) == (0, 255)


def test_a_long_picture_keeps_its_proportions():
    page = sheet_of(np.full((1, 10, 20, 3), 255, np.uint8))
    rows, columns = np.nonzero((page == 255).all(axis=2))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (TILE // 2, TILE)


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (5, 2, 3), (MOST, 8, 8)])
def test_tiles_fill_a_square(count, rows, columns):
    page = sheet_of(*[np.zeros((1, 8, 8, 1), np.float32)] * count)
    assert page.shape == (rows * (TILE + GAP) + GAP, columns * (TILE + GAP) + GAP, 3)
