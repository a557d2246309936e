"""Observations: what is known is not looked at again, and what is not known is looked at once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import models
import numpy as np
import onnx_ir as ir
import pytest

from quantcli.data import InputSpec, from_arrays
from quantcli.errors import InternalError, StatisticsError
from quantcli.fingerprints import fingerprint
from quantcli.observations import Observations, Place
from quantcli.saved_statistics import Recorder

MODEL = ir.from_proto(models.text("(float[1] x) => (float[1] y) { y = Relu(x) }"))
OTHER = ir.from_proto(models.text("(float[1] x) => (float[1] y) { y = Neg(x) }"))


def dataset(count: int = 5):
    return from_arrays([{"x": np.array([i], np.float32)} for i in range(count)], [InputSpec("x", np.dtype("f4"), (1,))])


def observations(store=None, count: int = 5) -> Observations:
    data = dataset(count)
    return Observations(data, count, "five", store=store, origin=("the digest",) if store is not None else ())


@dataclass
class Looks:
    """Counts how often it looks, and at what."""

    asked: list = field(default_factory=list)

    def __call__(self, subjects, samples):
        self.asked.append(list(subjects))
        return {s: float(len(samples) + len(s[0])) for s in subjects}


def see(of: Observations, look: Looks, *subjects: tuple[str, str], model=MODEL, **options):
    return of.of(model, subjects or [("kind", "a")], look, expected=float, **options)


def test_without_a_store_every_question_is_a_look():
    look, seen = Looks(), observations()
    assert see(seen, look) == see(seen, look) == {("kind", "a"): 9.0}
    assert len(look.asked) == 2


def test_with_a_store_the_second_question_is_none():
    look, seen = Looks(), observations(Recorder())
    assert see(seen, look) == see(seen, look)
    assert len(look.asked) == 1


def test_only_what_is_missing_is_looked_at():
    look, seen = Looks(), observations(Recorder())
    see(seen, look, ("kind", "a"), ("kind", "b"))
    assert list(see(seen, look, ("kind", "c"), ("kind", "a"))) == [("kind", "c"), ("kind", "a")]
    assert look.asked[1] == [("kind", "c")]


def test_nothing_asked_is_nothing_looked_at():
    look = Looks()
    assert observations().of(MODEL, [], look, expected=float) == {}
    assert look.asked == []


@pytest.mark.parametrize(
    "other",
    [
        lambda s: (s, {"model": OTHER}, ("kind", "a")),
        lambda s: (s.part(3), {}, ("kind", "a")),
        lambda s: (s.inside("body", MODEL, s.samples, 5), {}, ("kind", "a")),
        lambda s: (replace(s, origin=("another digest",)), {}, ("kind", "a")),
        lambda s: (s, {}, ("other kind", "a")),
        lambda s: (s, {}, ("kind", "other tensor")),
    ],
    ids=["model", "part", "body", "data", "kind", "tensor"],
)
def test_all_that_decides_the_answer_is_part_of_the_question(other):
    look, seen = Looks(), observations(Recorder())
    see(seen, look)
    asked, options, subject = other(seen)
    see(asked, look, subject, **options)
    assert len(look.asked) == 2


@pytest.mark.parametrize("other", [("other body", MODEL), ("body", OTHER)], ids=["body", "model around it"])
def test_equal_bodies_elsewhere_see_other_samples(other):
    look, seen = Looks(), observations(Recorder())
    see(seen.inside("body", MODEL, seen.samples, 5), look)
    see(seen.inside(*other, seen.samples, 5), look)
    assert len(look.asked) == 2


def test_another_kind_that_holds_more_serves_and_not_the_other_way_round():
    look, seen = Looks(), observations(Recorder())
    see(seen, look, ("rich", "a"))
    assert see(seen, look, ("poor", "a"), instead={"poor": ("rich",)}) == {("poor", "a"): 9.0}
    assert len(look.asked) == 1
    see(seen, look, ("poor", "b"))
    see(seen, look, ("rich", "b"), instead={"poor": ("rich",)})
    assert look.asked[1:] == [[("poor", "b")], [("rich", "b")]]


def test_a_value_of_a_wrong_type_is_seen_anew():
    store = Recorder()
    store.keep(Place(fingerprint(MODEL), ("the digest",)), {("kind", "a"): "no number"})
    look = Looks()
    assert see(observations(store), look) == {("kind", "a"): 9.0}


def test_that_there_is_no_value_is_remembered():
    seen, looks = observations(Recorder()), []

    def nothing(subjects, _samples):
        looks.append(subjects)
        return dict.fromkeys(subjects)

    for _ in range(2):
        assert seen.of(MODEL, [("kind", "a")], nothing, expected=float) == {("kind", "a"): None}
    assert len(looks) == 1


def test_a_part_is_fed_with_a_part():
    look = Looks()
    assert see(observations().part(2), look) == {("kind", "a"): 6.0}
    whole = observations(Recorder())
    assert whole.part(5) is whole
    assert whole.part(7) is whole


def test_the_digest_is_that_of_the_samples():
    assert observations().digest() == dataset().digest()
    assert observations(Recorder()).digest() == "the digest"


def test_without_samples_and_without_knowledge_it_is_a_bug():
    with pytest.raises(InternalError, match="no samples to see it on"):
        see(replace(observations(Recorder()), samples=None), Looks())


def test_a_store_may_refuse_a_look():
    class Closed(Recorder):
        def absent(self, place, subjects):
            raise StatisticsError(f"no {subjects[0]} at {place}")

    look = Looks()
    with pytest.raises(StatisticsError, match="kind"):
        see(observations(Closed()), look)
    assert look.asked == []


def test_a_recorder_passes_on_what_it_does_not_know():
    first, look = Recorder(), Looks()
    see(observations(first), look)
    second = Recorder(first)
    see(observations(second), look, ("kind", "a"), ("kind", "b"))
    assert look.asked == [[("kind", "a")], [("kind", "b")]]
    assert first.seen == second.seen
