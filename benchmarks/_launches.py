"""What an accelerator would launch and move, read off a program compiled for it.

Operands and results of a kernel count as bytes that it moves, as if no cache held them
between two kernels. What lies in a TPU's fast memory (its layout names a memory space)
is not counted, nor is padding.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*->.*\{$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"\s([a-z][a-z0-9\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]+)(\d*)(?:e\w+)?\[([\d,]*)\](\{[^}]*\})?")
_INNER = re.compile(
    r"(?:body|condition|branch_computations|true_computation|false_computation|to_apply"
    r"|calls)=\{?(%[\w.\-]+(?:, %[\w.\-]+)*)"
)

# Neither launched nor moved.
_FREE = set(
    "add-dependency after-all bitcast constant domain get-tuple-element opt-barrier "
    "parameter partition-id replica-id tuple".split()
)
_TURNS = re.compile(r'known_trip_count"?:?=?\{"?n"?:"?(\d+)')
# Custom calls that only say how arrays lie.
_NO_KERNEL = re.compile(
    'custom_call_target="(AllocateBuffer|ConcatBitcast|Sharding|X64\\w+)"'
)
_TRANSFERS = {"copy-start", "slice-start"}  # between a TPU's memories
_ENTERED = {"call", "async-start"}
_COLLECTIVE = re.compile(
    "all-gather|all-reduce|all-to-all|collective-|reduce-scatter|ragged-all-to-all"
)


class Counts(NamedTuple):
    """What one run launches and moves; a loop's turn and every branch count once."""

    kernels: int = 0  # outside of loops and branches
    kernels_inside: int = 0  # in loops and branches
    loops: int = 0
    host_decisions: int = 0  # branches, and loops of no known length
    copies: int = 0  # kernels that only copy
    collectives: int = 0
    bytes: int = 0
    bytes_inside: int = 0  # of these, what loops and branches move
    # What is inside, with every turn of a loop of known length.
    kernels_turned: int = 0
    bytes_turned: int = 0

    def inside(self, turns: int = 1) -> "Counts":
        """Return the counts of what a loop or a branch runs."""
        moved = self.bytes - self.bytes_inside
        return self._replace(
            kernels=0,
            kernels_inside=self.kernels + self.kernels_inside,
            bytes_inside=self.bytes,
            kernels_turned=turns * (self.kernels + self.kernels_turned),
            bytes_turned=turns * (moved + self.bytes_turned),
        )


class _Instruction(NamedTuple):
    name: str
    shape: str  # of the result, with its layout
    opcode: str
    operands: tuple[str, ...]
    attributes: str


def counts(hlo: str) -> Counts:
    """Count what an optimized program launches and moves.

    Args:
      hlo: Its text.
    """
    computations, entry = _parse(hlo)
    return _total(computations, entry)


def _total(computations: dict[str, list[_Instruction]], name: str) -> Counts:
    """Return the counts of a computation, and of those that it runs."""
    found = []
    shapes = {i.name: i.shape for i in computations[name]}
    for i in computations[name]:
        code = i.opcode
        if code in _FREE or code.endswith(("-done", "-update")):
            continue
        if code in ("while", "conditional"):
            known = _TURNS.search(i.attributes)
            turns = int(known[1]) if known else 1
            found += [_total(computations, inner).inside(turns) for inner in _called(i)]
            found.append(Counts(loops=code == "while", host_decisions=not known))
        elif code in _ENTERED:
            found += [_total(computations, inner) for inner in _called(i)]
        elif _COLLECTIVE.match(code):
            found.append(Counts(collectives=1))
        elif code in _TRANSFERS:
            found.append(Counts(bytes=_moved(i)))
        elif not (code == "custom-call" and _NO_KERNEL.search(i.attributes)):
            read = sum(_n_bytes(shapes.get(operand, "")) for operand in i.operands)
            moved = read + _n_bytes(i.shape)
            found.append(Counts(kernels=1, copies=code == "copy", bytes=moved))
    return Counts(*map(sum, zip(Counts(), *found, strict=True)))


def _called(instruction: _Instruction) -> Iterator[str]:
    for names in _INNER.findall(instruction.attributes):
        yield from (name.lstrip("%") for name in names.split(", "))


def _parse(hlo: str) -> tuple[dict[str, list[_Instruction]], str]:
    """Return the instructions of every computation, and the name of the entry."""
    computations: dict[str, list[_Instruction]] = {}
    name = entry = ""
    for text in hlo.splitlines():
        if header := _HEADER.match(text):
            name = header[2]
            entry = name if header[1] else entry
            computations[name] = []
        elif name and (line := _LINE.match(text)) and (op := _OPCODE.search(line[2])):
            operands, attributes = _split(line[2][op.end() :])
            found = tuple(re.findall(r"%([\w.\-]+)", operands))
            shape = line[2][: op.start()]
            computations[name].append(
                _Instruction(line[1], shape, op[1], found, attributes)
            )
    return computations, entry


def _split(text: str) -> tuple[str, str]:
    """Split ``operands), attributes`` at the parenthesis that closes the operands."""
    depth = 1
    for end, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[:end], text[end + 1 :]
    return text, ""


def _n_bytes(shape: str) -> int:
    """Return the bytes of a shape's arrays that lie in the main memory."""
    return sum(n for n, is_main in _arrays(shape) if is_main)


def _moved(instruction: _Instruction) -> int:
    """Return what a transfer reads from and writes to the main memory.

    The result of a copy begins with its target and its source, that of a slice with its
    source and its target, of whose length the slice is.
    """
    one, other = _arrays(instruction.shape)[:2]
    n = one[0] if instruction.opcode == "copy-start" else other[0]
    return n * (one[1] + other[1])


def _arrays(shape: str) -> list[tuple[int, bool]]:
    """Return the bytes of a shape's arrays, and whether they lie in the main memory."""
    return [
        (
            math.ceil(math.prod(_lengths(dims)) * _bits(kind, width) / 8),
            "S(" not in layout,
        )
        for kind, width, dims, layout in _ARRAY.findall(shape)
    ]


def _lengths(dims: str) -> list[int]:
    return [int(n) for n in dims.split(",") if n]


def _bits(kind: str, width: str) -> int:
    return 8 if kind == "pred" else int(width or 0)
