"""What is read off the text of a compiled program, and which steps are compiled."""

import inspect
import re

import pytest

import rmda_jax as rj
from benchmarks import _targets, compiled
from benchmarks._launches import Counts, counts
from tests.aot._limits import METRICS, as_limit, exceeded, limits

PROGRAM = """HloModule step

%fused (a: f32[8], b: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %b = f32[8]{0} parameter(1)
  ROOT %sum = f32[8]{0} add(%a, %b)
}

%turn (c: (s32[], f32[8])) -> (s32[], f32[8]) {
  %c = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%c), index=1
  %y = f32[8]{0} fusion(%x, %x), kind=kLoop, calls=%fused
  ROOT %t = (s32[], /*index=1*/f32[8]{0}) tuple(%c, %y)
}

%goes_on (d: (s32[], f32[8])) -> pred[] {
  %d = (s32[], f32[8]{0}) parameter(0)
  ROOT %p = pred[] compare(%d, %d), direction=LT
}

ENTRY %main (w: f32[8], m: f32[8]) -> (f32[8], bf16[4]) {
  %w = f32[8]{0} parameter(0)
  %m = f32[8]{0} parameter(1)
  %two = (f32[8]{0}, bf16[4]{0}) fusion(%w, %m), kind=kInput, calls=%fused
  %one = f32[8]{0} get-tuple-element(%two), index=0
  %copy = f32[8]{0} copy(%one)
  %fast = (f32[8]{0:T(256)S(1)}, f32[8]{0:T(256)}, u32[]{:S(2)}) copy-start(%copy)
  %there = f32[8]{0:T(256)S(1)} copy-done(%fast)
  %part = ((f32[8]{0}), f32[4]{0:S(1)}, s32[]{:S(2)}) slice-start(%copy), slice={[0:4]}
  %kept = f32[8]{0:T(256)S(1)} fusion(%there, %one), kind=kLoop, calls=%fused
  %all = f32[8]{0} all-reduce(%one), to_apply=%fused
  %n = (s32[], f32[8]{0}) tuple(%one, %one)
  %some = (s32[], f32[8]{0}) while(%n), condition=%goes_on, body=%turn
  %ten = (s32[], f32[8]{0}) while(%n), condition=%goes_on, body=%turn, backend_config={"known_trip_count":{"n":"10"}}
  ROOT %out = (f32[8]{0}, bf16[4]{0}) tuple(%copy, %two)
}
"""  # noqa: E501


def test_launches_and_bytes_are_read_off_a_program():
    fusion = 3 * 32 + 8  # two arrays read, one written, and four half ones
    transfers = 32 + 16  # to the fast memory: read here, written there
    turn, ends = 2 * (3 * 32), 2 * (1 + 2 * 36)  # in two loops
    assert counts(PROGRAM) == Counts(
        kernels=3,
        kernels_inside=4,
        loops=2,
        host_decisions=1,
        copies=1,
        collectives=1,
        bytes=fusion + 2 * 32 + transfers + 32 + turn + ends,
        bytes_inside=turn + ends,
        kernels_turned=2 + 10 * 2,
        bytes_turned=(1 + 10) * (turn + ends) // 2,
    )


def test_every_step_has_limits_for_every_target():
    places = {
        (row["target"], row["what"]) for row in limits() if row["problem"] == "small"
    }
    assert places == {(t, step) for t in _targets.TARGETS for step in compiled.STEPS}


def test_every_transformation_with_a_prox_is_compiled():
    takers = {
        name
        for name in dir(rj)
        if inspect.isfunction(getattr(rj, name))
        and {"strength", "regularizer"}
        <= inspect.signature(getattr(rj, name)).parameters.keys()
    }
    compiled_ones = {name.split(",")[0] for name in compiled.STEPS}
    assert takers <= compiled_ones


def test_what_is_above_a_limit_is_named_with_both_figures():
    row = dict.fromkeys(METRICS, 1) | dict.fromkeys(("target", "problem", "what"), "")
    row |= {"bytes_per_parameter": 24.04, "kernels": 7}
    limit = as_limit(row)
    assert limit["bytes_per_parameter"] == 24.1
    assert not exceeded(row, limit)
    assert exceeded(row, limit | {"kernels": 6}) == {"kernels": (7, 6)}


@pytest.mark.parametrize("target", _targets.TARGETS)
def test_a_compiler_that_is_not_installed_is_named(target, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    remedy = re.escape(_targets.TARGETS[target].remedy)
    with pytest.raises(SystemExit, match=f"is not installed: {remedy}$"):
        _ = _targets.placed_on(target)
