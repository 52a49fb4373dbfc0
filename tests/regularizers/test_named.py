"""The factories as a whole: what they are called with, and what they are called."""

import inspect
import pickle

import numpy as np
import pytest

import rmda_jax as rj
from tests._table import COMMON, TABLE, make, public_factories

TRIES = [
    pytest.param(name, tried.arguments, id=f"{name}-{i}")
    for name, row in TABLE.items()
    for i, tried in enumerate(row.tries)
]
AXES = {"axis", "group_axes", "matrix_axes"}


def test_every_public_factory_is_in_the_table():
    assert public_factories() == set(TABLE)


def test_a_dozen_are_at_the_top_as_well_and_the_others_are_still_found_there():
    assert set(TABLE) & set(dir(rj)) == set(COMMON)
    for name in TABLE:
        assert getattr(rj, name) is getattr(rj.regularizers, name)
    with pytest.raises(AttributeError, match="no attribute 'named'"):
        _ = rj.named


@pytest.mark.parametrize(("name", "arguments"), TRIES)
def test_text_is_the_call_that_makes_it(name, arguments):
    made = make(name, arguments)
    assert eval(str(made), dict(vars(rj.regularizers))) == made
    assert repr(made) == str(made)
    assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (rj.l1(), "l1()"),
        (rj.mcp(gamma=np.float32(2)), "mcp(gamma=2.0)"),
        (rj.elastic_net(0.0), "squared_l2()"),
        (rj.group_lasso(), "group_lasso(group_axes=-2)"),
        (
            rj.group_lasso((0, 1), block=2),
            "group_lasso(group_axes=(0, 1), block=(2, 2))",
        ),
        (rj.group_mcp(0, gamma=2.0), "group_mcp(group_axes=0, gamma=2.0)"),
        (rj.regularizers.on_groups(rj.mcp(), 0), "group_mcp(group_axes=0)"),
        (
            rj.regularizers.on_groups(rj.mcp(), 0, block=2),
            "on_groups(mcp(), group_axes=0, block=2)",
        ),
        (rj.tied_group_lasso((0, 1)), "tied_group_lasso(group_axes=(0, 1))"),
        (rj.regularizers.on_singular_values(rj.l1()), "nuclear_norm()"),
        (rj.regularizers.boxed(rj.l1(), 0, np.inf), "boxed(l1(), 0.0, float('inf'))"),
        (rj.top_k(3, -1), "top_k(3, group_axes=-1)"),
        (rj.regularizers.top_groups(1, 0), "top_groups(1, group_axes=0)"),
        (rj.regularizers.top_groups(1.0, 0), "top_groups(1.0, group_axes=0)"),
        (rj.regularizers.max_rank(3), "max_rank(3)"),
        (rj.regularizers.total_variation(0), "total_variation(axis=0)"),
    ],
    ids=str,
)
def test_text_leaves_defaults_out(made, text):
    assert str(made) == text


@pytest.mark.parametrize("name", TABLE)
def test_axes_are_the_last_argument_by_position(name):
    # What comes before defines a set, is the penalty that is put there, or its weights.
    parameters = list(
        inspect.signature(getattr(rj.regularizers, name)).parameters.values()
    )
    places = [i for i, p in enumerate(parameters) if p.name in AXES]
    if not places:
        return
    (place,) = places
    after = parameters[place + 1 :]
    if name.endswith("tied_group_lasso") or name == "on_tied_groups":
        assert after.pop(0).name == "groups"  # which says more of the axes
    assert all(p.kind is p.KEYWORD_ONLY for p in after)
    before = {p.name for p in parameters[:place]}
    indicator = make(name, TABLE[name].tries[0].arguments).is_indicator
    assert not before or indicator or before in ({"regularizer"}, {"weights"})


@pytest.mark.parametrize(
    ("product", "named"),
    [
        (rj.regularizers.on_groups(rj.l1(), -1, block=4), rj.group_lasso(-1, block=4)),
        (rj.regularizers.on_groups(rj.mcp(gamma=2), 0), rj.group_mcp(0, gamma=2)),
        (
            rj.regularizers.on_groups(rj.regularizers.scad(), 0),
            rj.regularizers.group_scad(0),
        ),
        (
            rj.regularizers.on_groups(rj.regularizers.l0(), 0, weighted=False),
            rj.regularizers.group_l0(0, weighted=False),
        ),
        (
            rj.regularizers.on_groups(rj.regularizers.lq(0.3), 0),
            rj.regularizers.group_lq(0, q=0.3),
        ),
        (
            rj.regularizers.on_groups(rj.regularizers.log_sum(), (0, 1)),
            rj.regularizers.group_log_sum((0, 1)),
        ),
        (rj.regularizers.on_singular_values(rj.l1()), rj.nuclear_norm()),
        (
            rj.regularizers.on_singular_values(rj.mcp(), (0, 1)),
            rj.regularizers.spectral_mcp((0, 1)),
        ),
        (rj.regularizers.on_tied_groups(rj.l1(), (0, 1)), rj.tied_group_lasso((0, 1))),
    ],
    ids=str,
)
def test_products_are_what_is_named(product, named):
    assert product == named
    assert hash(product) == hash(named)


@pytest.mark.parametrize(
    "wrong",
    [
        rj.group_lasso(),
        rj.box(0, 1),
        rj.regularizers.binary(),
        rj.sparse_group_lasso(),
        1,
    ],
)
@pytest.mark.parametrize(
    "put",
    [
        lambda r: rj.regularizers.on_groups(r, 0),
        lambda r: rj.regularizers.on_singular_values(r),
        lambda r: rj.regularizers.on_tied_groups(r, (0, 1)),
    ],
)
def test_products_take_penalties_of_entries_only(wrong, put):
    with pytest.raises(TypeError, match="must be a penalty of magnitudes on entries"):
        put(wrong)
