"""A file of statistics: what is written is read back, and what is not what it should be is refused in one line."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quantcli import saved_statistics
from quantcli.errors import StatisticsError
from quantcli.observations import Place
from quantcli.quant import Histogram, TensorStats
from quantcli.saved_statistics import Saved, Statistics

WHOLE, PART = Place("aa" * 32, ("dd" * 32,)), Place("bb" * 32, ("dd" * 32, "3 of them"))
SEEN = {
    PART: {("factors", "y"): np.array([1.5, np.inf])},
    WHOLE: {
        ("range", "x"): TensorStats(2, -1.0, 0.1, histogram=Histogram(-3, -8, np.array([1, 0, 1]))),
        ("range", 'a "quoted" µ\n'): None,
        ("span", "x"): 0.3,
    },
}
FOUND = Statistics("cc" * 32, "dd" * 32, "calib.yaml", 100, modes=("int8-only",), quantcli="1.2", seen=SEEN)


def text_of(statistics):
    stream = io.BytesIO()
    statistics.write_to(stream)
    return stream.getvalue().decode()


def read(tmp_path, text):
    path = tmp_path / "stats.json"
    path.write_text(text)
    return saved_statistics.read(path)


def test_what_is_written_is_read_back(tmp_path):
    found = read(tmp_path, text_of(FOUND))
    assert replace(found, seen={}) == replace(FOUND, seen={})
    assert found.seen.keys() == FOUND.seen.keys()
    assert found.seen[WHOLE] == FOUND.seen[WHOLE]
    np.testing.assert_array_equal(found.seen[PART]["factors", "y"], [1.5, np.inf])


def test_it_is_json_with_a_line_for_each_tensor(tmp_path):
    lines = text_of(FOUND).splitlines()
    assert sum(line.startswith("    ") for line in lines) == 4
    document = json.loads(text_of(FOUND))
    assert document["model_sha256"] == "cc" * 32
    (ranges,) = (o for o in document["observations"] if o["kind"] == "range")
    assert (ranges["tensors"]["x"]["min"], ranges["tensors"]["x"]["max"]) == (-1.0, 0.1)


def test_the_order_of_looking_does_not_show():
    back = {place: dict(reversed(seen.items())) for place, seen in reversed(SEEN.items())}
    assert text_of(replace(FOUND, seen=back)) == text_of(FOUND)


def test_nothing_seen_is_a_file_too(tmp_path):
    assert read(tmp_path, text_of(replace(FOUND, seen={}))).seen == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "other"}, "no file of statistics"),
        ({"version": 2}, "version 2 of the format, expected 1; quant 1.2 made it"),
        ({"samples": "many"}, "'samples' is 'many', expected a int"),
        ({"model_sha256": None}, "'model_sha256' is None"),
        ({"observations": 3}, "broken observations"),
        ({"observations": [{"model": "m"}]}, "broken observations"),
        ({"observations": [{"model": "m", "part": [], "kind": "k", "tensors": {"a": {"is": "X"}}}]}, "broken"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_a_wrong_document_is_refused(tmp_path, change, said):
    with pytest.raises(StatisticsError, match=said):
        read(tmp_path, json.dumps({**json.loads(text_of(FOUND)), **change}))


@pytest.mark.parametrize("text", ["", "nothing", "[]", text_of(FOUND)[:-20]], ids=["empty", "text", "list", "cut off"])
def test_what_is_no_document_is_refused(tmp_path, text):
    with pytest.raises(StatisticsError, match=r"stats\.json: no file of statistics"):
        read(tmp_path, text)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(StatisticsError, match="cannot be read: No such file"):
        saved_statistics.read(tmp_path / "none.json")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "stats.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StatisticsError, match="no file of statistics"):
        saved_statistics.read(tmp_path / "stats.json")


def test_another_model_is_refused_with_both_digests():
    saved_statistics.check_model(FOUND, "cc" * 32, Path("m.onnx"), Path("s.json"))
    with pytest.raises(StatisticsError, match=r"s\.json: statistics of another model.*cccc.*expected eeee.*m\.onnx"):
        saved_statistics.check_model(FOUND, "ee" * 32, Path("m.onnx"), Path("s.json"))


def test_other_data_is_refused_with_both_digests():
    saved_statistics.check_data(FOUND, "dd" * 32, "other.yaml", Path("s.json"))
    with pytest.raises(StatisticsError, match=r"other data \(100 samples of calib\.yaml\).*dddd.*expected eeee.*other"):
        saved_statistics.check_data(FOUND, "ee" * 32, "other.yaml", Path("s.json"))


def test_what_it_has_is_found_and_all_else_refused():
    store = Saved(FOUND, Path("s.json"))
    assert store.find(WHOLE, [("span", "x"), ("span", "y")]) == {("span", "x"): 0.3}
    with pytest.raises(
        StatisticsError, match=r"s\.json: no 'span' of tensor 'y', as .* here; it was made for int8-only by quant"
    ):
        store.absent(WHOLE, [("span", "y")])
    with pytest.raises(StatisticsError, match="'y' and 1 more, as the model is prepared here"):
        store.absent(Place("another", ("dd" * 32,)), [("span", "y"), ("span", "z")])
