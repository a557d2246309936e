"""Samples out of Python: functions, arrays and random data."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantcli.data import InputSpec, from_arrays, from_callable, random_dataset
from quantcli.errors import DatasetError

F32 = np.dtype("float32")
A = InputSpec("a", F32, ("n", 2))
B = InputSpec("b", np.dtype("int64"), ("n",))


def feed(value=0.0):
    return {"a": np.full((1, 2), value, np.float32), "b": np.array([7])}


def failure(action):
    with pytest.raises(DatasetError) as caught:
        action()
    assert caught.value.hint
    return caught.value.message


def five():
    yield from (feed(i) for i in range(5))


def test_function_is_called_once():
    calls = []

    def counted():
        calls.append(1)
        return five()

    dataset = from_callable(counted, [A, B])
    assert sorted(f["a"][0, 0] for f in dataset) == sorted(f["a"][0, 0] for f in dataset) == [0, 1, 2, 3, 4]
    assert len(calls) == 1


def test_function_is_described_by_its_name():
    dataset = from_callable(five, [A, B])
    assert (dataset.description, dataset.synthetic, dataset.warnings, len(dataset)) == ("five()", False, (), 5)


def test_endless_function_may_be_limited():
    dataset = from_callable(lambda: (feed(i) for i in itertools.count()), [A, B], samples=3)
    assert len(dataset) == len(list(dataset)) == 3


def test_take_of_a_function_is_spread_over_its_samples():
    dataset = from_callable(five, [A, B])
    values = [f["a"][0, 0] for f in dataset]
    assert [f["a"][0, 0] for f in dataset.take(2)] == [values[0], values[2]]


def test_lists_are_matched_by_order_with_a_warning():
    dataset = from_callable(lambda: [[feed()["a"], feed()["b"]]], [A, B])
    assert [list(f) for f in dataset] == [["a", "b"]]
    assert "matched with the inputs by order: 'a', 'b'" in dataset.warnings[0]


def test_batch_axis_is_added():
    (result,) = from_callable(lambda: [{"a": np.ones(2, np.float32), "b": np.int64(3)}], [A, B])
    assert (result["a"].shape, result["b"].shape) == ((1, 2), (1,))


def test_order_of_names_is_that_of_the_inputs():
    (result,) = from_arrays([dict(reversed(feed().items()))], [A, B])
    assert list(result) == ["a", "b"]


@pytest.mark.parametrize(
    ("sample", "got", "expected"),
    [
        ({"a": feed()["a"]}, "input 'b' is missing, expected 'a', 'b', got 'a'", "sample 0"),
        ({**feed(), "c": feed()["a"]}, "'c' is not an input", "expected 'a', 'b'"),
        ({**feed(), 3: feed()["a"]}, "3 is not an input", "expected 'a', 'b'"),
        ({**feed(), "a": np.ones((1, 2))}, "dtype float64", "expected float32"),
        ({**feed(), "a": np.ones((1, 2), F32.newbyteorder())}, "byte order", "expected float32"),
        ({**feed(), "a": np.ones((1, 3), np.float32)}, "shape [1, 3]", "axis 1 is 3, fixed at 2"),
        ({**feed(), "a": np.ones((1, 1, 2), np.float32)}, "rank 3", "expected rank 2"),
        ({**feed(), "a": np.full((1, 2), np.inf, np.float32)}, "inf at [0, 0], 2 of 2 values", "expected finite"),
        ({**feed(), "a": np.array([[-np.inf, 1]], np.float32)}, "-inf at [0, 0], 1 of 2 values", "expected finite"),
        ({**feed(), "a": np.array([[np.inf, 0]], np.float32)}, "inf at [0, 0], 1 of 2 values", "expected finite"),
        ({**feed(), "a": [1.0, 2.0]}, "a list", "expected a numpy array"),
        ([feed()["a"]], "1 arrays", "a list of 2 arrays"),
        (feed()["a"], "a sample is a ndarray", "expected a mapping of ['a', 'b'] or a list of 2 arrays"),
        (None, "0 samples", "expected at least 1"),
    ],
)
def test_sample_that_does_not_fit_is_refused_at_once(sample, got, expected):
    for message in (
        failure(lambda: from_callable(lambda: [sample], [A, B])),
        failure(lambda: from_arrays([sample], [A, B])),
    ):
        assert got in message
        assert expected in message


def test_later_sample_that_does_not_fit_is_found_by_check():
    dataset = from_arrays([feed(), feed(), feed(np.nan)], [A, B])
    assert "input 'a', sample 2 (arrays): nan at [0, 0]" in failure(dataset.check)


def test_error_of_the_function_is_told():
    def broken():
        yield feed()
        raise KeyError("speech.wav")

    dataset = from_callable(broken, [A, B])
    message = failure(dataset.check)
    assert "broken(): raised KeyError: 'speech.wav'; expected an iterable of samples" in message


def test_dataset_error_of_the_function_is_not_wrapped():
    def broken():
        raise DatasetError("the microphone is off", hint="Turn it on.")

    assert failure(lambda: from_callable(broken, [A, B])) == "the microphone is off"


def test_function_that_yields_nothing_is_refused():
    assert "0 samples, expected at least 1" in failure(lambda: from_callable(list, [A, B]))
    assert "0 samples, expected at least 1" in failure(lambda: from_arrays([], [A, B]))


def test_function_that_returns_no_iterable_is_refused():
    assert "not iterable; expected an iterable" in failure(lambda: from_callable(lambda: None, [A, B]))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_generator_that_can_be_run_once_gives_all_its_samples(count):
    generator = iter([feed()] * count)

    def same():
        return generator

    dataset = from_callable(same, [A, B])
    assert len(list(dataset)) == len(list(dataset)) == len(dataset) == count


def test_a_generator_that_is_used_up_is_refused():
    generator = iter([feed()])
    assert len(from_callable(lambda: generator, [A, B])) == 1
    assert "0 samples, expected at least 1" in failure(lambda: from_callable(lambda: generator, [A, B]))


def test_a_function_without_an_end_is_refused(monkeypatch):
    monkeypatch.setattr("quantcli.data.memory.MOST_SAMPLES", 20)
    endless = from_callable(lambda: (feed() for _ in itertools.count()), [A, B])
    assert "more than 20 samples, expected an end" in failure(lambda: len(endless))


@pytest.mark.parametrize("samples", [0, -2])
def test_limit_is_at_least_one(samples):
    assert "expected at least 1" in failure(lambda: from_callable(five, [A, B], samples=samples))
    assert "expected at least 1" in failure(lambda: from_arrays([feed()], [A, B], samples=samples))


def test_digest_follows_the_arrays():
    digests = [from_arrays([feed(i)], [A, B]).digest() for i in (0, 1, 0)]
    assert digests[0] == digests[2] != digests[1]


def test_digest_of_a_function_equals_that_of_its_arrays():
    assert from_callable(five, [A, B]).digest() == from_arrays(list(five()), [A, B]).digest()


TEXT = InputSpec("text", np.dtype(object), ("n",))


@pytest.mark.parametrize("dtype", [object, "U5", "S6"])
def test_text_is_fed_as_python_strings(dtype):
    words = np.array(["a", "grün", ""]) if dtype != "S6" else np.char.encode(["a", "grün", ""])
    (sample,) = from_arrays([{"text": words.astype(dtype)}], [TEXT])
    assert sample["text"].dtype == object
    assert sample["text"].tolist() == ["a", "grün", ""]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([1.0, 2.0]), "dtype float64, expected strings"),
        (np.array(["a", 2], object), "2, expected strings"),
        (np.array([b"\xff"]), "expected strings"),
    ],
)
def test_what_is_no_text_is_refused(array, words):
    assert words in failure(lambda: from_arrays([{"text": array}], [TEXT]))


def test_text_is_no_number():
    assert "expected float32" in failure(lambda: from_arrays([{"a": np.array(["1"])}], [InputSpec("a", F32, (1,))]))


def test_digest_follows_the_text():
    digests = [from_arrays([{"text": np.array(words)}], [TEXT]).digest() for words in (["a", "b"], ["ab"], ["a", "b"])]
    assert digests[0] == digests[2] != digests[1]


def test_random_text_is_short_and_decided_by_its_seed():
    (first,), (second,) = random_dataset([TEXT], 1), random_dataset([TEXT], 1)
    assert [len(word) for word in first["text"]] == [4]
    assert first["text"].tolist() == second["text"].tolist()


@pytest.mark.parametrize("given", [np.float16, np.float32, np.float64, np.uint8, np.int64])
@pytest.mark.parametrize("taken", ["float16", "float64"])
def test_an_input_of_another_float_type_takes_all_numbers(given, taken):
    (sample,) = from_arrays([{"a": np.array([1, 2]).astype(given)}], [InputSpec("a", np.dtype(taken), (2,))])
    assert sample["a"].dtype == taken
    assert sample["a"].tolist() == [1, 2]


def test_a_number_beyond_float16_is_refused():
    half = InputSpec("a", np.dtype("float16"), (1,))
    assert "inf at [0]" in failure(lambda: from_arrays([{"a": np.array([1e5], np.float32)}], [half]))


def test_dtypes_of_other_packages_are_checked_for_nan():
    bfloat16 = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    spec = InputSpec("a", bfloat16, (2,))
    assert len(random_dataset([spec], 3)) == 3
    message = failure(lambda: from_arrays([{"a": np.array([1, np.nan], bfloat16)}], [spec]))
    assert "nan at [1], 1 of 2 values; expected finite" in message


def test_random_data_is_synthetic_and_says_so():
    dataset = random_dataset([A, B], 32)
    dataset.check()
    assert (dataset.description, dataset.synthetic, len(dataset)) == ("random data (32 samples)", True, 32)
    assert dataset.take(4).synthetic


def test_random_floats_are_standard_normal():
    (sample,) = random_dataset([InputSpec("a", F32, (10_000,))], 1)
    assert abs(sample["a"].mean()) < 0.05
    assert abs(sample["a"].std() - 1) < 0.05


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int32", "int64"])
def test_random_integers_are_0_or_1(dtype):
    (sample,) = random_dataset([InputSpec("a", np.dtype(dtype), (100,))], 1)
    assert sample["a"].dtype == dtype
    assert set(sample["a"].tolist()) == {0, 1}


def test_free_dimensions_are_a_batch_of_one_or_small_and_symbols_agree():
    inputs = [
        InputSpec("ids", np.dtype("int64"), ("batch", "seq")),
        InputSpec("mask", F32, (None, "batch", "seq", None, 0)),
    ]
    sample = next(iter(random_dataset(inputs, 1)))
    assert sample["ids"].shape == (1, 8)
    assert sample["mask"].shape == (1, 1, 8, 8, 0)


def test_random_data_needs_a_rank():
    assert "input 'a' has no rank, expected a shape" in failure(lambda: random_dataset([InputSpec("a", F32, None)], 1))


@pytest.mark.parametrize("count", [0, -1])
def test_random_data_needs_a_sample(count):
    assert f"random data: {count} samples asked for, expected at least 1" in failure(lambda: random_dataset([A], count))


@given(seed=st.integers(0, 2**32), count=st.integers(1, 5))
def test_random_data_is_decided_by_its_seed(seed, count):
    first, second = random_dataset([A, B], count, seed=seed), random_dataset([A, B], count, seed=seed)
    assert first.digest() == second.digest() != random_dataset([A, B], count, seed=seed + 1).digest()


def test_an_additive_mask_may_be_minus_infinity():
    mask = np.array([[0, -np.inf]], np.float32)
    (fed,) = from_arrays([{**feed(), "a": mask}], [A, B])
    np.testing.assert_array_equal(fed["a"], mask)
