"""What is suspicious about samples: judged by what is fed alone, and by how the model begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from quantcli.color_order import Orders
    from quantcli.exercise import Exercise
    from quantcli.feed_statistics import Summary

FEW: Final = 32  # samples; ranges of fewer ones change from draw to draw
_PIXELS: Final = 0.05  # a model that multiplies by less expects 0..255; by more, 0..1
_TINY: Final = 0.05  # of an image's range: 0..1 scaled by 1/255 or 1/127.5 a second time, 0.017 with ImageNet's std
_SMOOTHER: Final = 0.5  # how much smoother pixels must be in the other layout
SHOWN: Final = 8


def of_samples(count: int, duplicates: int, summaries: Iterable[Summary]) -> Iterator[str]:
    """Yield what is suspicious without knowing the model."""
    if count < FEW:
        yield f"{count} samples, fewer than {FEW}: ranges and corrections that follow from them are not reliable"
    if duplicates:
        yield f"{duplicates} of {count} samples are equal to another one: they weigh more and show nothing new"
    for summary in summaries:
        yield from _of_input(summary)


def of_scaling(summaries: Iterable[Summary], factors: Mapping[str, float | None]) -> Iterator[str]:
    """Yield where what is fed does not go with how the model begins.

    Args:
        summaries: Of the inputs.
        factors: What the model multiplies each input with itself; None where it does not.
    """
    for summary in summaries:
        if not summary.values or not summary.layout:
            continue
        factor = factors.get(summary.name)
        largest = max(abs(summary.values.minimum), abs(summary.values.maximum))
        where = f"input {summary.name!r}: {_range(summary)}"
        if factor is not None and factor < _PIXELS and largest <= 16:
            yield f"{where}, but the model multiplies it by {factor:.3g} itself: normalised twice? It expects 0..255"
        elif factor is not None and factor >= _PIXELS and largest > 16:
            yield f"{where}, but the model multiplies it by {factor:.3g} itself: it expects 0..1, not pixels"
        elif factor is None and summary.is_float and _are_pixels(summary):
            yield f"{where}: raw pixels, and the model does not scale them: check that it was trained on 0..255"


def of_exercise(exercise: Exercise) -> Iterator[str]:
    """Yield what the samples leave idle."""
    for idle in exercise.idle[:SHOWN]:
        what = f"{idle.operator} {idle.node!r}"
        if not idle.channels:
            yield f"{what}: its result {idle.tensor!r} is the same in all samples: nothing there is calibrated"
            continue
        parts = ((idle.zero, "always 0"), (idle.still, "always one value"))
        said = " and ".join(f"{n} of {idle.channels} channels {how}" for n, how in parts if n)
        yield f"{what}: {said}: these samples do not exercise them"
    if len(exercise.idle) > SHOWN:
        yield f"and {len(exercise.idle) - SHOWN} more tensors with channels that never change"
    for node, branch in exercise.untaken:
        yield f"If {node!r}: no sample takes its {branch}: what is in there is not calibrated"


def of_orders(name: str, orders: Orders | None) -> Iterator[str]:
    """Yield whether exchanged channels are classified better."""
    if orders is not None and orders.is_swapped:
        yield (
            f"input {name!r}: {orders.fed} of {orders.samples} samples are classified rightly, {orders.swapped} with "
            "red and blue exchanged: the model seems to expect the other order (RGB, BGR)"
        )


def _of_input(summary: Summary) -> Iterator[str]:
    values, where = summary.values, f"input {summary.name!r}"
    if values is not None and values.minimum == values.maximum:
        yield f"{where} is {values.minimum:g} everywhere: its range cannot be calibrated"
    elif summary.identical and not summary.is_empty:
        yield f"{where} is the same in all samples"
    if values is None or not summary.layout:
        return
    if summary.roughness is not None and summary.roughness[1] < _SMOOTHER * summary.roughness[0]:
        other = "NHWC" if summary.layout == "NCHW" else "NCHW"
        yield (
            f"{where}: fed as {summary.layout}, its numbers lie as {other} images do: "
            "transpose them instead of reshaping, or set `layout`"
        )
    if not summary.is_float:
        return
    spread = max(c.maximum - c.minimum for c in summary.channels)
    if 0 < spread < _TINY:
        yield f"{where}: {_range(summary)}, and each channel spans less than {_TINY:g}: normalised twice?"
    elif -30 < values.minimum < -4.5 and 4.5 < values.maximum < 30:
        yield f"{where}: {_range(summary)}: mean and standard deviation taken twice?"
    elif values.minimum > -3 and values.maximum > 300:
        yield f"{where}: {_range(summary)}: divided by a standard deviation of 0..1, but not by 255?"
    empty = [i for i, c in enumerate(summary.channels) if c.minimum == c.maximum]
    if empty and len(empty) < len(summary.channels):
        yield f"{where}: channel {', '.join(map(str, empty))} is constant"


def _are_pixels(summary: Summary) -> bool:
    values = summary.values
    return values is not None and 0 <= values.minimum < 16 and 200 < values.maximum <= 255


def _range(summary: Summary) -> str:
    values = summary.values
    return f"values from {values.minimum:.4g} to {values.maximum:.4g}" if values is not None else "no values"
