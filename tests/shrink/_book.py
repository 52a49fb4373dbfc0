"""A book of the units of a network: what makes them, what reads them, in that order.

By the book alone a few lines say which units can go (`can_go`), whatever the library's
plan says: a unit that nothing reads, or that is zero where something reads it.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from tests.shrink._networks import INPUTS, N_TOKENS, Layer, shuffled

Flat = Mapping[str, np.ndarray]


class Place(NamedTuple):
    """Where the units of a set lie in a leaf."""

    leaf: str
    axis: int
    positions: np.ndarray  # of shape (units, positions of each)

    def entries(self, flat: Flat) -> np.ndarray:
        """Return the entries of every unit, as the rows of a matrix."""
        x = np.moveaxis(flat[self.leaf], self.axis, 0)[self.positions]
        return x.reshape(len(self.positions), -1)

    def zero(self, flat: Flat) -> np.ndarray:
        return (self.entries(flat) == 0).all(axis=1)


class Event(NamedTuple):
    """What happens to a set of units. The names:

    write: a term is added, made by these weights; with several places, their product.
    new: another array of the same units begins, as zeros.
    moved: zeros become something else, if these weights are not all zero.
    read: these weights, or none, read the units as terms of sums.
    read moved: likewise, where a unit is no zero although it was one.
    whole: an equation needs all units: the removed ones must be zeros.
    groups: units are places in two groups, of which they go only together.
    one stays: one unit is left, for a depthwise convolution needs a channel.
    stay: units stay in a function (``by="function"``), or in a program, too ("any").
    """

    name: str
    places: tuple[Place, ...] = ()
    by: str = ""


@dataclasses.dataclass(eq=False)
class Hidden:
    """A set of units, and what happens to them."""

    size: int
    history: list[Event] = dataclasses.field(default_factory=list)

    def places(self, *names: str) -> list[Place]:
        """Return the places of the events of these names; of none, all."""
        return [
            place
            for event in self.history
            for place in event.places
            if not names or event.name in names
        ]

    def can_go(self, flat: Flat, for_program: bool) -> np.ndarray:
        """Say which units can go, whatever a plan says."""
        zero, goes = np.ones(self.size, bool), np.ones(self.size, bool)
        for event in self.history:
            zeros = [place.zero(flat) for place in event.places]
            match event.name:
                case "write":
                    zero &= np.any(zeros, axis=0)
                case "new":
                    zero[:] = True
                case "moved":
                    zero &= np.all(zeros, axis=0) if zeros else False
                case "read":
                    goes &= zero | (zeros[0] if zeros else False)
                case "read moved":
                    goes &= zeros[0]
                case "whole":
                    goes &= zero & for_program
                case "stay":
                    goes &= for_program and event.by == "function"
        if any(event.name == "groups" for event in self.history):
            goes = np.tile(goes.reshape(2, -1).all(axis=0), 2)
        return goes


class Line(list[Hidden]):
    """Sets of units along an axis; places say where each unit lies, set after set."""

    def __init__(
        self, sets: Iterable[Hidden], places: np.ndarray | None = None
    ) -> None:
        super().__init__(sets)
        self.size = sum(hidden.size for hidden in self)
        self.places = np.arange(self.size) if places is None else places

    def __add__(self, other: "Line") -> "Line":
        places = [self.places, self.size + other.places]
        return Line([*self, *other], np.concatenate(places))

    def shuffled(self) -> "Line":
        moved = shuffled(np.arange(self.size))
        return Line(self, np.argsort(moved)[self.places])

    def positions(self) -> Iterator[tuple[Hidden, np.ndarray]]:
        """Yield every set, and where its units lie."""
        start = 0
        for hidden in self:
            yield hidden, self.places[start : start + hidden.size]
            start += hidden.size


def blocks(size: int, *numbers: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return where units lie along an axis that has them block after block."""
    return lambda at: at[:, None] + size * np.array(numbers)


class Book:
    """Builds a network, layer by layer, and keeps book of its units."""

    def __init__(self, family: str) -> None:
        self.family = family
        self.layers: list[Layer] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.sets: list[Hidden] = []
        self.closed: set[str] = set()  # leaves that are no params but closed over
        self.needs_key = False
        n_inputs = 1 if family == "tokens" else self.input_shape[-1]
        self.here = Line([Hidden(n_inputs)])
        self.embedded: Line | None = None

    def __repr__(self) -> str:
        return f"{self.family}: {[' '.join(layer) for layer in self.layers]}"

    @property
    def input_shape(self) -> tuple[int, ...]:
        return INPUTS[self.family]

    @property
    def width(self) -> int:
        return self.here.size

    @property
    def name(self) -> str:
        """The name of the next layer."""
        return str(len(self.layers))

    def new(self, size: int) -> Line:
        self.sets.append(Hidden(size))
        return Line(self.sets[-1:])

    def happens(self, units: Line, name: str, by: str = "") -> None:
        """Note an event without weights."""
        for hidden in units:
            hidden.history.append(Event(name, by=by))

    def note(
        self,
        name: str,
        units: Line,
        *leaves: tuple[str, int],
        where: Callable[[np.ndarray], np.ndarray] = lambda at: at[:, None],
    ) -> None:
        """Note an event with leaves, each with the axis along which the units lie.

        Args:
          name: Of the event.
          units: The units.
          *leaves: Names and axes.
          where: From the places of units in their line, of shape (units,), to those
            along the axis, of shape (units, positions of each).
        """
        for hidden, at in units.positions():
            places = tuple(Place(leaf, axis, where(at)) for leaf, axis in leaves)
            hidden.history.append(Event(name, places))

    def activate(self, units: Line, activation: str) -> None:
        if activation == "sigmoid":
            self.happens(units, "moved")

    def dense(
        self,
        name: str,
        bias: bool,
        out: Line,
        *,
        reads: str = "read",
        window: bool = True,
    ) -> None:
        """Note a layer that reads the units here, and writes others."""
        size = (3, 3) if window and self.family == "image" else ()
        self.shapes[f"{name}/kernel"] = (*size, self.width, out.size)
        self.note(reads, self.here, (f"{name}/kernel", len(size)))
        self.note("write", out, (f"{name}/kernel", len(size) + 1))
        if bias:
            self.shapes[f"{name}/bias"] = (out.size,)
            self.note("write", out, (f"{name}/bias", 0))

    def vectors(self, name: str, leaves: str) -> list[tuple[str, int]]:
        """Add leaves with one entry for each unit here, and return them."""
        found = [(f"{name}/{leaf}", 0) for leaf in leaves.split()]
        self.shapes |= {leaf: (self.width,) for leaf, _ in found}
        return found

    def params(
        self, rng: np.random.Generator, zeros: bool = True
    ) -> dict[str, np.ndarray]:
        """Draw params; zeros are where some units are read, or written, or both."""
        flat = {name: rng.normal(size=shape) for name, shape in self.shapes.items()}
        for hidden in self.sets if zeros else ():
            reads = hidden.places("read", "read moved")
            writes = hidden.places("write", "moved")
            for places in (reads, writes, reads + writes, reads[:1], writes[:1]):
                dead = rng.random(hidden.size) < 0.2
                for leaf, axis, positions in places:
                    np.moveaxis(flat[leaf], axis, 0)[positions[dead]] = 0
        return flat

    def inputs(self, rng: np.random.Generator) -> np.ndarray:
        if self.family == "tokens":
            return rng.integers(N_TOKENS, size=self.input_shape)
        return rng.normal(size=self.input_shape)
