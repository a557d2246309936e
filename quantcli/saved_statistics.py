"""Statistics in a file: what calibration saw of a model on certain samples, so that no conversion need see it again.

The file says of which model and which data it is. Whoever asks it for anything else is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Final

import quantcli
from quantcli.errors import StatisticsError
from quantcli.exact_json import from_json, to_json
from quantcli.observations import Place

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from quantcli.encodings import Json
    from quantcli.observations import Store, Subject, Value

FORMAT: Final = "quantcli statistics"
VERSION: Final = 1
_SHOWN: Final = 12  # digits of a digest that are shown
_FIELDS: Final[Mapping[str, type]] = {
    "quantcli": str, "modes": list, "model_sha256": str, "data_sha256": str, "data": str, "samples": int,
    "random_data": bool,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a file of statistics holds.

    Attributes:
        model_sha256: Fingerprint of the user's model, its weights included, wherever it lies.
        data_sha256: Digest of the samples.
        data: What they are, in words.
        samples: How many they are.
        random_data: Whether they are made up.
        modes: Recipes that were prepared for.
        quantcli: Version of the tool that made it.
        seen: What was seen where.
    """

    model_sha256: str
    data_sha256: str
    data: str
    samples: int
    random_data: bool = False
    modes: tuple[str, ...] = ()
    quantcli: str = quantcli.__version__
    seen: Mapping[Place, Mapping[Subject, Value]] = field(default_factory=dict)

    def write_to(self, stream: IO[bytes]) -> None:
        """Write it as JSON, a line for each tensor."""
        for part in self._parts():
            stream.write(part.encode())

    def _parts(self) -> Iterator[str]:
        head = {name: list(self.modes) if name == "modes" else getattr(self, name) for name in _FIELDS}
        written = json.dumps({"format": FORMAT, "version": VERSION, **head}, indent=1, ensure_ascii=False)
        yield written.removesuffix("\n}") + ',\n "observations": ['
        for index, (place, kind, tensors) in enumerate(_groups(self.seen)):
            said = _line({"model": place.model, "part": list(place.data[1:]), "kind": kind, "tensors": {}})
            yield ("," if index else "") + "\n  " + said.removesuffix("}}") + "\n"
            yield ",\n".join(f"    {_line(name)}: {_line(to_json(value))}" for name, value in sorted(tensors.items()))
            yield "}}"
        yield "\n ]\n}\n"


def read(path: Path) -> Statistics:
    """Return the statistics in a file.

    Raises:
        StatisticsError: It cannot be read, is no file of statistics, or is one in another version of the format.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise StatisticsError(f"{path}: cannot be read: {error.strerror}", hint=_HINT) from error
    except ValueError as error:
        raise StatisticsError(
            f"{path}: no file of statistics, expected the JSON of quant calibrate: {error}"
        ) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise StatisticsError(f"{path}: no file of statistics, expected 'format': {FORMAT!r}", hint=_HINT)
    if document.get("version") != VERSION:
        raise StatisticsError(
            f"{path}: version {document.get('version')!r} of the format, expected {VERSION}; "
            f"quant {document.get('quantcli', '?')} made it",
            hint=_HINT,
        )
    return _parsed(document, path)


_HINT: Final = "quant calibrate MODEL --representative-dataset SPEC -o FILE makes it"


def check_model(found: Statistics, model_sha256: str, model: Path, where: Path) -> None:
    """Raise where statistics are of another model.

    Raises:
        StatisticsError: With both digests.
    """
    if found.model_sha256 != model_sha256:
        raise StatisticsError(
            f"{where}: statistics of another model, sha256 {found.model_sha256[:_SHOWN]}..., "
            f"expected {model_sha256[:_SHOWN]}... of {model}",
            hint=f"make them anew: quant calibrate {model} --representative-dataset SPEC -o {where}",
        )


def check_data(found: Statistics, data_sha256: str, data: str, where: Path) -> None:
    """Raise where statistics are of other samples.

    Raises:
        StatisticsError: With both digests.
    """
    if found.data_sha256 != data_sha256:
        raise StatisticsError(
            f"{where}: statistics of other data ({found.samples} samples of {found.data}), "
            f"sha256 {found.data_sha256[:_SHOWN]}..., expected {data_sha256[:_SHOWN]}... of {data}",
            hint=f"make them anew with quant calibrate ... -o {where}, or give the samples that they were made from",
        )


class Recorder:
    """A store that holds all that was asked of it, known before or seen now."""

    def __init__(self, before: Store | None = None) -> None:
        self._before = before
        self.seen: dict[Place, dict[Subject, Value]] = {}

    def find(self, place: Place, subjects: Collection[Subject]) -> Mapping[Subject, Value]:
        """Return what was recorded, and what the other store knows, which is recorded now."""
        held = self.seen.get(place, {})
        others = [s for s in subjects if s not in held]
        found = self._before.find(place, others) if self._before is not None and others else {}
        if found:
            self.seen.setdefault(place, {}).update(found)
        return {**{s: held[s] for s in subjects if s in held}, **found}

    def absent(self, place: Place, subjects: Sequence[Subject]) -> None:
        """Ask the other store."""
        if self._before is not None:
            self._before.absent(place, subjects)

    def keep(self, place: Place, seen: Mapping[Subject, Value]) -> None:
        """Record it, and let the other store keep it."""
        self.seen.setdefault(place, {}).update(seen)
        if self._before is not None:
            self._before.keep(place, seen)


@dataclass(frozen=True, slots=True)
class Saved:
    """A store that has what is in a file, and refuses all else."""

    statistics: Statistics
    where: Path

    def find(self, place: Place, subjects: Collection[Subject]) -> Mapping[Subject, Value]:
        """Return what is known of these."""
        known = self.statistics.seen.get(place, {})
        return {s: known[s] for s in subjects if s in known}

    def absent(self, place: Place, subjects: Sequence[Subject]) -> None:
        """Refuse: the file was made with other options, by another version, or not for this.

        Raises:
            StatisticsError: With what is missing, and for what the file was made.
        """
        del place
        kind, tensor = subjects[0]
        more = f" and {len(subjects) - 1} more" if len(subjects) > 1 else ""
        raise StatisticsError(
            f"{self.where}: no {kind!r} of tensor {tensor!r}{more}, as the model is prepared here; it was made for "
            f"{', '.join(self.statistics.modes)} by quant {self.statistics.quantcli}",
            hint="quant calibrate with the --mode, --set and --float of this conversion makes one with it",
        )

    def keep(self, place: Place, seen: Mapping[Subject, Value]) -> None:
        """Nothing is seen beside the file."""


def _groups(
    seen: Mapping[Place, Mapping[Subject, Value]],
) -> Iterator[tuple[Place, str, dict[str, Value]]]:
    """Yield what was seen in one order, whatever order it was seen in."""
    for place in sorted(seen, key=lambda p: (p.data[1:], p.model)):
        for kind in sorted({kind for kind, _ in seen[place]}):
            yield place, kind, {tensor: v for (k, tensor), v in seen[place].items() if k == kind}


def _line(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _parsed(document: Mapping[str, Json], path: Path) -> Statistics:
    for name, kind in _FIELDS.items():
        if not isinstance(document.get(name), kind):
            raise StatisticsError(f"{path}: {name!r} is {document.get(name)!r}, expected a {kind.__name__}", hint=_HINT)
    head = {name: document[name] for name in _FIELDS}
    try:
        seen = _observations(document, str(document["data_sha256"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StatisticsError(f"{path}: broken observations: {error}", hint=_HINT) from error
    modes = tuple(str(m) for m in document["modes"])  # type: ignore[union-attr]
    return Statistics(**{**head, "modes": modes, "seen": seen})  # type: ignore[arg-type]  # checked right above


def _observations(document: Mapping[str, Json], data: str) -> dict[Place, dict[Subject, Value]]:
    seen: dict[Place, dict[Subject, Value]] = {}
    for group in document["observations"]:  # type: ignore[union-attr]
        place = Place(str(group["model"]), (data, *(str(p) for p in group["part"])))  # type: ignore[index,call-overload,union-attr]
        held = seen.setdefault(place, {})
        for tensor, value in group["tensors"].items():  # type: ignore[index,call-overload,union-attr]
            held[str(group["kind"]), tensor] = from_json(value)  # type: ignore[index,call-overload]
    return seen
