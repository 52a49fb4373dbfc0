"""What is read off a compiled program."""

import math

import jax
import jax.numpy as jnp
import optax
import pytest

from benchmarks._problems import fill, many_leaves, shapes, size
from benchmarks._programs import Stepper, n_instructions, n_kernels

HLO = """HloModule jit_step, is_scheduled=true

%fused (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %n = f32[4]{0} negate(%p)
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (s: (s32[], f32[4])) -> (s32[], f32[4]) {
  %s = (s32[], f32[4]{0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%s), index=1
  %i = s32[] get-tuple-element(%s), index=0
  %y = f32[4]{0} fusion(%x), kind=kLoop, calls=%fused
  ROOT %t = (s32[], f32[4]{0}) tuple(%i, %y)
}

%condition (s.1: (s32[], f32[4])) -> pred[] {
  %s.1 = (s32[], f32[4]{0}) parameter(0)
  %j = s32[] get-tuple-element(%s.1), index=0
  ROOT %less = pred[] compare(%j, %j), direction=LT
}

ENTRY %main (q: f32[4]) -> f32[] {
  %q = f32[4]{0} parameter(0)
  %zero = s32[] constant(0)
  %f = f32[4]{0} fusion(%q), kind=kLoop, calls=%fused
  %t.1 = (s32[], /*index=1*/f32[4]{0:T(8,128)}) tuple(%zero, %f)
  %w = (s32[], f32[4]{0}) while(%t.1), condition=%condition, body=%body
  %r = f32[4]{0} get-tuple-element(%w), index=1
  %z = f32[] constant(0)
  ROOT %total = f32[] reduce(%r, %z), dimensions={0}, to_apply=%add
}
"""


def test_kernels_are_counted_in_the_entry_and_in_loops_but_not_in_fusions():
    # fusion and reduction of the entry; fusion of the body; comparison of the condition
    assert n_kernels(HLO) == 4


def test_all_instructions_are_counted():
    assert n_instructions(HLO) == 2 + 3 + 5 + 3 + 8


def test_branches_are_counted():
    hlo = HLO.replace(
        "while(%t.1), condition=%condition, body=%body",
        "conditional(%i), branch_computations={%body, %condition}",
    )
    assert n_kernels(hlo) == 4


def test_elementwise_program_is_one_kernel():
    program = jax.jit(lambda x: jnp.sin(x) + 2 * x).lower(jnp.ones(64)).compile()
    assert n_kernels(program.as_text() or "") == 1


def test_stepper_tells_costs_and_takes_steps():
    params = fill({"layer": {"kernel": (4, 8), "bias": (8,)}}, seed=0)
    stepper = Stepper(optax.sgd(1.0, momentum=0.5), params, params)
    costs = stepper.costs()
    assert costs["parameters"] == 40
    assert costs["state_bytes_per_parameter"] == 4
    assert stepper.compulsory_bytes() == 40 * 4 * 5
    jax.tree.map(lambda x: None, stepper())
    assert float(abs(stepper.params["layer"]["kernel"]).max()) == 0


@pytest.mark.parametrize(
    ("network", "n"),
    [("lenet5", 431_080), ("vgg19", 20_040_522), ("resnet50", 23_520_842)],
)
def test_networks_have_the_published_sizes(network, n):
    is_shape = lambda node: isinstance(node, tuple)
    leaves = jax.tree.leaves(shapes(network), is_leaf=is_shape)
    assert sum(map(math.prod, leaves)) == n


def test_many_leaves_are_many():
    params = fill(many_leaves(7, 100), seed=0)
    assert len(jax.tree.leaves(params)) == 7
    assert size(params) == 700
