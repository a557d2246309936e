"""Measures how fast models run: in turns, because other work on the machine comes and goes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quantcli.runtime import Feed, Session

SLICE_SECONDS: Final = 0.01  # one turn of a model in a race
MOST_ROUNDS: Final = 30


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds that one run takes, over several rounds."""

    minimum: float
    median: float


def race(sessions: Mapping[str, Session], feeds: Mapping[str, Feed], *, seconds: float = 2.0) -> dict[str, Latency]:
    """Measure several models in turns, so that what slows the machine down slows all of them.

    Args:
        sessions: The models.
        feeds: What each is fed with.
        seconds: About as long for all; at least three rounds.
    """
    costs = {name: min(_seconds(sessions[name], feeds[name], 1) for _ in range(2)) for name in sessions}
    repeats = {name: max(1, round(SLICE_SECONDS / max(cost, 1e-6))) for name, cost in costs.items()}
    rounds = max(3, int(seconds / sum(costs[name] * repeats[name] for name in sessions)))
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(min(rounds, MOST_ROUNDS)):
        for name, session in sessions.items():
            taken[name].append(_seconds(session, feeds[name], repeats[name]))
    return {name: Latency(min(times), float(np.median(times))) for name, times in taken.items()}


def _seconds(session: Session, feed: Feed, repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        session.run(feed)
    return (time.perf_counter() - began) / repeats
