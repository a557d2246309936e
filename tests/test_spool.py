"""A spool gives back what was put into it, as often as asked, and its space when it is closed."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quantcli.spool import Spool, spool_all

dtypes = st.sampled_from(["float32", "float16", "float64", "int8", "uint8", "int64", "bool"]).map(np.dtype)
arrays = hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))


@pytest.fixture
def spool():
    with closing(Spool()) as made:
        yield made


def alike(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@settings(max_examples=60, deadline=None)
@given(st.lists(arrays, max_size=4))
def test_what_comes_out_is_what_went_in(many):
    with closing(Spool()) as spool:
        for array in many:
            spool.append(array)
        assert all(alike(a, b) for a, b in zip(spool, many, strict=True))


def test_it_is_read_as_often_as_needed(spool):
    spool.append(np.arange(3))
    assert [a.tolist() for _ in range(2) for a in spool] == [[0, 1, 2]] * 2


def test_two_readers_do_not_disturb_each_other(spool):
    for i in range(3):
        spool.append(np.full(2, i))
    assert [(int(a[0]), int(b[0])) for a, b in zip(spool, spool, strict=True)] == [(0, 0), (1, 1), (2, 2)]


def test_it_grows_after_it_was_read(spool):
    spool.append(np.array([1]))
    list(spool)
    spool.append(np.array([2]))
    assert [int(a[0]) for a in spool] == [1, 2]


def test_arrays_in_any_memory_order_are_kept(spool):
    array = np.arange(6).reshape(2, 3).T[::-1]
    spool.append(array)
    assert next(iter(spool)).tolist() == array.tolist()


def test_what_is_read_is_a_copy(spool):
    spool.append(np.zeros(2))
    next(iter(spool))[:] = 1
    assert next(iter(spool)).tolist() == [0, 0]


def test_its_length_is_the_number_of_arrays(spool):
    spool.append(np.zeros(5))
    spool.append(np.zeros(0))
    assert len(spool) == 2


def test_type_and_rank_are_those_of_the_first_array(spool):
    spool.append(np.zeros((2, 3), np.int8))
    assert spool.first_kind() == (np.dtype("int8"), 2)


def test_a_closed_spool_holds_no_file(spool):
    spool.append(np.zeros(3))
    spool.close()
    with pytest.raises(ValueError, match="closed"):
        list(spool)


def test_results_are_spooled_by_name():
    spools = spool_all(iter([{"a": np.array([1]), "b": np.array([2.5])}, {"a": np.array([3]), "b": np.array([4.5])}]))
    found = {name: [float(x[0]) for x in spool] for name, spool in spools.items()}
    for spool in spools.values():
        spool.close()
    assert found == {"a": [1, 3], "b": [2.5, 4.5]}


def test_no_results_are_no_spools():
    assert spool_all(iter([])) == {}
