"""Times several model files against each other: one process, one thread, no spinning, many short interleaved rounds.

On a shared machine only neighbours in time are comparable, so ratios are taken within a round, and their median told.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnxruntime as ort
from evaluate import card_of, entered

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np

SLOT = 0.004  # seconds that one variant runs before the next one's turn
FEWEST, MOST = 15, 600  # rounds


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one inference, one figure per round."""

    rounds: tuple[float, ...]

    @property
    def milliseconds(self) -> float:
        """The median."""
        return 1e3 * statistics.median(self.rounds)

    def faster_than(self, other: Timing) -> float:
        """Return the median over the rounds of the other's time by this one's: above 1 this one is faster."""
        return statistics.median(b / a for a, b in zip(self.rounds, other.rounds, strict=True))

    def best_faster_than(self, other: Timing) -> float:
        """Return the other's shortest time by this one's: what is left when nothing disturbed either."""
        return min(other.rounds) / min(self.rounds)


def session_of(model: Path, options: ort.SessionOptions | None = None) -> ort.InferenceSession:
    """Load a model for one thread that does not spin."""
    chosen = options or ort.SessionOptions()
    chosen.intra_op_num_threads = chosen.inter_op_num_threads = 1
    chosen.log_severity_level = 4
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(model), chosen, providers=["CPUExecutionProvider"])


def feed_of(session: ort.InferenceSession, model: Path, sample: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a float sample in the types that the model takes."""
    card = card_of(model)
    return {i.name: entered(sample[i.name], i.type, card.get(i.name)) for i in session.get_inputs()}


def race(models: Mapping[str, Path], sample: Mapping[str, np.ndarray], *, seconds: float) -> dict[str, Timing]:
    """Time the models in turns, for about so many seconds."""
    sessions = {n: session_of(p) for n, p in models.items()}
    feeds = {n: feed_of(s, models[n], sample) for n, s in sessions.items()}
    repeats = {n: _repeats(s, feeds[n]) for n, s in sessions.items()}
    found: dict[str, list[float]] = {n: [] for n in models}
    names = list(models)
    end = time.perf_counter() + seconds
    for turn in range(MOST):
        if turn >= FEWEST and time.perf_counter() > end:
            break
        first = turn % len(names)  # nobody always follows the same one
        for name in names[first:] + names[:first]:
            found[name].append(_timed(sessions[name], feeds[name], repeats[name]))
    return {n: Timing(tuple(t)) for n, t in found.items()}


def _repeats(session: ort.InferenceSession, feed: Mapping[str, np.ndarray]) -> int:
    fastest = min(_timed(session, feed, 1) for _ in range(3))
    return max(1, math.ceil(SLOT / fastest))


def _timed(session: ort.InferenceSession, feed: Mapping[str, np.ndarray], repeats: int) -> float:
    session.run(None, feed)  # its weights may have left the cache while others ran
    began = time.perf_counter()
    for _ in range(repeats):
        session.run(None, feed)
    return (time.perf_counter() - began) / repeats
