"""Random small networks with random zeros: what shrinks computes the same.

The generator keeps book of the units that it makes, of what reads and what writes them,
and says by that book alone which units can go; the plan must find them all.
SHRINK_EXAMPLES=1000 in the environment tries that many networks, and SHRINK_FIRST=1000
others; `tests.shrink.random_networks` tries thousands, and keeps a log.
"""

import os
import re

import numpy as np
import pytest

from rmda_jax import shrink
from rmda_jax.shrink._rule_units import RuleGroups
from rmda_jax.specs._leaf_rules import active
from tests._daily import these
from tests._x64 import float64
from tests.shrink._book import Book
from tests.shrink._kinds import KINDS, ONLY_IN, add, drawn
from tests.shrink._trial import TOLERANCE, Network, check_program, stays

pytestmark = [
    pytest.mark.costly,
    pytest.mark.filterwarnings("ignore:all units are zero:UserWarning"),
]

N_EXAMPLES = int(
    os.environ.get("SHRINK_EXAMPLES", "60" if "RMDA_LONG" in os.environ else "2")
)
FIRST = int(os.environ.get("SHRINK_FIRST", "0"))
SEEDS = range(FIRST, FIRST + N_EXAMPLES)


@pytest.fixture(autouse=True)
def _float64():
    with float64():
        yield


def test_what_shrinks_computes_the_same_and_all_that_can_go_goes():
    for seed in SEEDS:
        network = Network.seeded(seed)
        plan = check_program(network, seed)
        assert stays(network, plan) == [], (seed, network.book)


@pytest.mark.parametrize(
    "kind",
    these(
        ("cached", "graph", "gru", "lora_closed", "rotary", "stack"),
        sorted(KINDS.keys() - {"embedding", "head", "tied_head"}),
    ),
)
def test_programs_of_networks_of_a_kind(kind):
    family = "image" if kind in ONLY_IN["image"] else "sequence"
    book = Book(family)
    for name in ("dense", kind, "head"):
        add(book, name, 4, "relu", bias=True)
    network = Network.of(book, np.random.default_rng(0))
    assert book.layers[1].kind == kind
    assert stays(network, check_program(network, seed=1)) == []


def test_every_kind_is_drawn():
    rng = np.random.default_rng(0)
    found = {layer.kind for _ in range(300) for layer in drawn(rng).layers}
    assert found == set(KINDS)


def test_the_book_names_units_that_a_plan_keeps():
    book = Book("vector")
    for kind in ("dense", "residual", "head"):
        add(book, kind, 4, "relu", bias=False)
    network = Network.of(book, np.random.default_rng(0))
    network.params["1/down/kernel"][:2] = 0
    couplings = shrink.trace(network.fn, network.params, *network.inputs)
    couplings = couplings.keep(*couplings.find("1/down/kernel", 0))
    plan = shrink.plan(network.fn, network.params, *network.inputs, couplings=couplings)
    (missed,) = stays(network, plan)
    assert re.fullmatch("(.*, )?0, 1(, .*)? of 1/up/kernel, axis 1", missed)


@pytest.mark.long
@pytest.mark.parametrize("for_program", [False, True])
@pytest.mark.parametrize("side", ["consumers", "producers", "all", "depth"])
def test_zero_groups_of_the_rules_go(side, for_program):
    for seed in SEEDS:
        check_rules(seed, side, for_program)


def check_rules(seed, side, for_program):
    """Check that groups of the rules go where their weights are zero."""
    depth = side == "depth"
    side, for_program = ("consumers", True) if depth else (side, for_program)
    rng = np.random.default_rng(seed)
    network = Network.of(drawn(rng), rng, zeros=False)
    fn, params, inputs = network.fn, network.params, network.inputs
    try:
        spec = shrink.group_rules(
            fn, params, *inputs, side=side, for_program=for_program, depth=depth
        )
    except ValueError as error:  # the stream is under a layer norm; no branches
        if not re.search("no unit whose|no branch", str(error)):
            raise
        return
    groups = RuleGroups.of(active(spec.resolve(params)), params)
    dead = rng.random(sum(groups.sizes)) < 0.5
    if not depth:  # one of each rule stays; of branches nothing need
        dead[np.cumsum((0, *groups.sizes[:-1]))] = False
    zeros = {name: (ids >= 0) & dead[ids] for name, ids in groups.ids.items()}
    pruned = params | {name: np.where(z, 0, params[name]) for name, z in zeros.items()}
    plan = shrink.plan(fn, pruned, *inputs, for_program=for_program)
    small = shrink.program(plan, fn, pruned, *inputs)
    wanted = fn(pruned, *inputs)
    found = small(shrink.apply(plan, pruned), *inputs)
    for name, z in zeros.items():
        z = np.broadcast_to(z, params[name].shape)
        assert not z[np.ix_(*plan.kept[name])].any(), (seed, name)
    assert np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()
