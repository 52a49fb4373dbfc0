"""A compiled optimizer step, and what can be read off it without a clock."""

import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks._problems import Params, size
from benchmarks._timing import Row

# What moves no data, or only says which instructions are next.
_FREE = {
    "after-all",
    "bitcast",
    "call",
    "conditional",
    "constant",
    "domain",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
    "while",
}
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*->.*\{$")
_OPCODE = re.compile(r"\s([a-z][a-z0-9\-]*)\(")
_CALLED = re.compile(
    r"(?:body|condition|branch_computations|true_computation|false_computation|to_apply)"
    r"=\{?((?:%?[\w.\-]+(?:, )?)+)"
)


class Stepper:
    """An optimizer's compiled step with the arrays it donates; a call takes a step."""

    def __init__(
        self, optimizer: optax.GradientTransformation, params: Params, grads: Params
    ):
        """Compile the step."""
        self.state = optimizer.init(params)
        self.program = lower_step(optimizer, params, self.state).compile()
        self.params, self.grads = jax.tree.map(jnp.copy, params), grads

    def __call__(self) -> Params:
        """Take a step, and return the new params."""
        self.params, self.state = self.program(self.params, self.state, self.grads)
        return self.params

    def costs(self) -> Row:
        """Return the bytes and kernels of the step, which no load changes.

        ``bytes_accessed`` is XLA's count, in which an iteration of a loop is one.
        """
        n = size(self.params)
        memory, cost = self.program.memory_analysis(), self.program.cost_analysis()
        assert memory is not None  # on every backend that JAX has
        assert cost is not None
        return {
            "parameters": n,
            "state_bytes_per_parameter": _n_bytes(self.state) / n,
            "temporary_bytes_per_parameter": memory.temp_size_in_bytes / n,
            "bytes_accessed_per_parameter": cost.get("bytes accessed", 0.0) / n,
            "kernels": n_kernels(text(self.program)),
        }

    def compulsory_bytes(self) -> int:
        """Return the bytes of params and state, read and written, and of grads, read.

        A step that leaves an array of its state as it is may move less.
        """
        return (
            2 * _n_bytes(self.params) + 2 * _n_bytes(self.state) + _n_bytes(self.grads)
        )


def lower_step(
    optimizer: optax.GradientTransformation, params: Params, state: Any
) -> jax.stages.Lowered:
    """Trace a step that donates params and state; grads are like params."""

    def step(params: Params, state: Any, grads: Params) -> tuple[Params, Any]:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params)


def text(program: jax.stages.Compiled) -> str:
    """Return the optimized program as text."""
    return program.as_text() or ""


def n_kernels(hlo: str) -> int:
    """Count the kernels of an optimized program: what is launched, or called in turn.

    That is every instruction that touches data (a fusion, a reduction, a copy, a
    library call, ...) of the entry computation and of the bodies, conditions and
    branches that it runs. What is inside a fusion is part of one kernel, and one
    iteration of a loop is counted.

    Args:
      hlo: The text of the optimized program.
    """
    bodies, entry = _computations(hlo)
    waiting, seen, count = [entry], {entry}, 0
    while waiting:
        for opcode, line in bodies[waiting.pop()]:
            if opcode not in _FREE:
                count += 1
            elif opcode in ("call", "conditional", "while"):
                inner = set(_called(line)) & bodies.keys() - seen
                waiting += inner
                seen |= inner
    return count


def n_instructions(hlo: str) -> int:
    """Count all instructions of a program's text, those inside fusions as well."""
    return sum(map(len, _computations(hlo)[0].values()))


def _computations(hlo: str) -> tuple[dict[str, list[tuple[str, str]]], str]:
    """Return opcode and text of every instruction, by computation; name the entry."""
    bodies: dict[str, list[tuple[str, str]]] = {}
    name = entry = ""
    for line in hlo.splitlines():
        if header := _HEADER.match(line):
            name = header[2]
            entry = name if header[1] else entry
            bodies[name] = []
        elif name and " = " in line and (code := _OPCODE.search(line.split(" = ")[1])):
            bodies[name].append((code[1], line))
    return bodies, entry


def _called(line: str) -> Iterator[str]:
    for names in _CALLED.findall(line):
        yield from (name.strip().lstrip("%") for name in names.split(","))


def _n_bytes(tree: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))
