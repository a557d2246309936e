"""The cache: found by content, shared by processes, bounded; whatever is wrong with it costs time and nothing else."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from dataclasses import replace

import numpy as np
import pytest

from quantcli import cache
from quantcli.cache import Cache
from quantcli.observations import Place
from quantcli.quant import TensorStats

HERE = Place("a model", ("some data",))
STATS = TensorStats(3, -1.0, 0.1)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def kept(folder, place=HERE, **values):
    store = Cache(folder)
    store.keep(place, {("kind", name): value for name, value in (values or {"a": STATS}).items()})
    return store


def entries(folder):
    return sorted(folder.glob("*.json"))


def test_what_was_kept_is_found_by_another_process_too(folder):
    kept(folder)
    assert Cache(folder).find(HERE, [("kind", "a"), ("kind", "b")]) == {("kind", "a"): STATS}


@pytest.mark.parametrize(
    "other", [replace(HERE, model="other"), replace(HERE, data=("other",)), replace(HERE, data=("some data", "part"))]
)
def test_another_place_knows_nothing_of_it(folder, other):
    assert kept(folder).find(other, [("kind", "a")]) == {}


@pytest.mark.parametrize("decides", ["_sources", "_machine"])
def test_other_code_or_another_cpu_knows_nothing_of_it(folder, monkeypatch, decides):
    kept(folder)
    monkeypatch.setattr(cache, decides, lambda: ["other"])
    assert Cache(folder).find(HERE, [("kind", "a")]) == {}


@pytest.mark.parametrize("version", ["quantcli.__version__", "numpy.__version__", "quantcli.runtime.version"])
def test_another_version_knows_nothing_of_it(folder, monkeypatch, version):
    kept(folder)
    monkeypatch.setattr(version, "0" if version.endswith("__") else lambda: "0")
    assert Cache(folder).find(HERE, [("kind", "a")]) == {}


def test_entries_of_one_place_grow(folder):
    kept(folder, a=1.0)
    kept(folder, b=np.arange(3))
    assert set(Cache(folder).find(HERE, [("kind", "a"), ("kind", "b")])) == {("kind", "a"), ("kind", "b")}
    assert len(entries(folder)) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-9],
        lambda b: b.replace(b"0.1", b"0.2"),
        lambda b: b[:0],
        lambda b: b"\xff" * len(b),
        lambda b: b + b"x",
    ],
    ids=["cut off", "another number", "empty", "noise", "longer"],
)
def test_a_damaged_entry_counts_as_not_there_and_is_replaced(folder, damage):
    kept(folder)
    (path,) = entries(folder)
    path.write_bytes(damage(path.read_bytes()))
    assert Cache(folder).find(HERE, [("kind", "a")]) == {}
    assert kept(folder).find(HERE, [("kind", "a")]) == {("kind", "a"): STATS}


@pytest.mark.parametrize("body", [b"[]", b'{"kind": 3}', b'{"kind": {"a": {"is": "Nothing"}}}', b'{"kind": {"a": {}}}'])
def test_a_whole_entry_of_something_else_counts_as_not_there(folder, body):
    kept(folder)
    (path,) = entries(folder)
    path.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    assert Cache(folder).find(HERE, [("kind", "a")]) == {}
    kept(folder, b=1.0)
    assert Cache(folder).find(HERE, [("kind", "b")]) == {("kind", "b"): 1.0}


def test_an_entry_that_is_a_folder_is_in_nobodys_way(folder):
    kept(folder)
    (path,) = entries(folder)
    path.unlink()
    path.mkdir()
    assert kept(folder).find(HERE, [("kind", "a")]) == {}


def test_a_full_disk_is_no_failure(folder, monkeypatch):
    kept(folder, a=1.0)

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.tempfile, "mkstemp", full)
    kept(folder, b=2.0)
    assert list(folder.glob("*.part")) == []


def test_the_least_recently_used_goes_first(folder):
    places = [Place(f"model {i}", ("data",)) for i in range(4)]
    value = {("kind", "a"): "x" * 1000}
    for i, place in enumerate(places[:3]):
        Cache(folder).keep(place, value)
        os.utime(Cache(folder)._path(place), (1000 + i, 1000 + i))
    assert Cache(folder).find(places[0], [("kind", "a")])  # used: no longer the oldest
    Cache(folder, most_bytes=3500).keep(places[3], value)
    assert [bool(Cache(folder).find(p, [("kind", "a")])) for p in places] == [True, False, True, True]


def test_an_entry_larger_than_the_cache_is_not_kept(folder):
    Cache(folder, most_bytes=50).keep(HERE, {("kind", "a"): "x" * 1000})
    assert entries(folder) == []


def test_the_cache_never_holds_more_than_it_may(folder):
    for i in range(20):
        Cache(folder, most_bytes=2000).keep(Place(f"model {i}", ()), {("kind", "a"): "x" * 500})
    assert 500 < sum(p.stat().st_size for p in entries(folder)) <= 2000


def test_files_that_were_never_finished_go_in_the_end(folder):
    for name, age in (("tmpold.part", 99999), ("tmpnew.part", 0)):
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (folder.stat().st_mtime - age,) * 2)
    kept(folder)
    assert [p.name for p in folder.glob("*.part")] == ["tmpnew.part"]


def _write(folder, number):
    for turn in range(20):
        Cache(folder).keep(HERE, {("kind", f"{number}"): float(turn)})
        found = Cache(folder).find(HERE, [("kind", str(n)) for n in range(4)])
        assert all(isinstance(v, float) for v in found.values())


def test_several_processes_write_one_entry(folder):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.starmap(_write, [(folder, n) for n in range(3)])
    found = Cache(folder).find(HERE, [("kind", str(n)) for n in range(3)])
    assert 19.0 in found.values()  # who wrote last is there whole
    assert list(folder.glob("*.part")) == []


# ---- where it is -----------------------------------------------------------------------------------------------------


def test_its_own_variable_names_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("QUANT_CACHE_DIR", str(tmp_path))
    assert cache.folder() == tmp_path


def test_an_empty_variable_switches_it_off(monkeypatch):
    monkeypatch.setenv("QUANT_CACHE_DIR", "")
    assert cache.folder() is None
    assert cache.opened() == (None, "")
    assert cache.contents().entries == 0
    assert cache.clear().entries == 0


@pytest.mark.parametrize(
    ("platform", "variable"), [("linux", "XDG_CACHE_HOME"), ("darwin", "XDG_CACHE_HOME"), ("win32", "LOCALAPPDATA")]
)
def test_the_platform_says_where_caches_are(monkeypatch, tmp_path, platform, variable):
    monkeypatch.delenv("QUANT_CACHE_DIR")
    monkeypatch.setattr(cache.sys, "platform", platform)
    monkeypatch.setenv(variable, str(tmp_path))
    assert cache.folder() == tmp_path / "quantcli"


@pytest.mark.parametrize("value", ["", "relative/path"])
def test_a_relative_place_is_ignored(monkeypatch, tmp_path, value):
    monkeypatch.delenv("QUANT_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "quantcli"


def test_without_a_home_there_is_none(monkeypatch):
    monkeypatch.delenv("QUANT_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless():
        raise RuntimeError

    monkeypatch.setattr(cache.Path, "home", homeless)
    assert cache.opened() == (None, "")


def test_a_folder_that_cannot_be_made_is_told(monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("QUANT_CACHE_DIR", str(tmp_path / "file" / "cache"))
    store, note = cache.opened()
    assert store is None
    assert note.startswith("nothing is cached: ")
    assert "QUANT_CACHE_DIR" in note


def test_a_folder_that_cannot_be_written_is_told(monkeypatch, cache_folder):
    monkeypatch.setattr(cache.os, "access", lambda *_: False)  # root may write everywhere
    assert cache.opened()[0] is None
    assert "is not writable" in cache.opened()[1]


def test_clear_removes_entries_and_nothing_else(cache_folder):
    store, _ = cache.opened()
    store.keep(HERE, {("kind", "a"): 1.0})
    for name in ("notes.json", "other.txt"):
        (cache_folder / name).write_text("mine")
    size = entries(cache_folder)[0].stat().st_size
    assert (cache.contents().entries, cache.contents().bytes) == (1, size)
    assert cache.clear().entries == 1
    assert sorted(p.name for p in cache_folder.iterdir()) == ["notes.json", "other.txt"]
    assert cache.contents().entries == 0


def test_only_its_user_may_read_it(cache_folder):
    cache.opened()
    assert cache_folder.stat().st_mode & 0o077 == 0
