"""A state that comes back in another container goes on by the names of its leaves."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import rmda_jax as rj
from tests._daily import product, these
from tests.transforms._table import assert_equal, factories, rows_of_factories, run

pytestmark = pytest.mark.costly

N_LAYERS = 11  # as strings their numbers sort 0, 1, 10, 2, ...
FILLED = (1, 2, 10)  # 10 is before 2, if they are strings; the others are empty
GROUPS = rj.RegularizerMap(
    [("2/*", rj.group_lasso(0)), ("10/*", rj.group_lasso(0)), ("*", None)]
)


def layers(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda: {"w": jnp.asarray(rng.normal(size=(4, 3)))}
    return [draw() if i in FILLED else {} for i in range(N_LAYERS)]


def keyed(tree):
    """Return what JSON or msgpack make of a tree: all keys are strings."""
    if isinstance(tree, list):
        tree = dict(enumerate(tree))
    if isinstance(tree, dict):
        return {str(key): keyed(x) for key, x in tree.items()}
    if isinstance(tree, tuple):
        nodes = map(keyed, tree)
        return type(tree)(*nodes) if hasattr(tree, "_fields") else tuple(nodes)
    return tree


CONTAINERS = {"list": lambda tree: tree, "integers": lambda t: dict(enumerate(t))}


def stands_for(row, container):
    """By default every mechanism, and one in the other container."""
    return row.mechanism if container == "list" else container


@product(stands_for, row=rows_of_factories("regularized"), container=CONTAINERS)
def test_a_state_with_other_keys_goes_on_by_name(row, container):
    make = CONTAINERS[container]
    tx = row.make(regularizer=GROUPS)
    params, state = run(tx, make(layers()), [make(layers(i)) for i in (1, 2)])
    grads = make(layers(3))
    assert jax.tree.structure(keyed(state)) != jax.tree.structure(state)
    expected = tx.update(grads, state, params)
    assert_equal(tx.update(grads, keyed(state), params), expected)


@factories("structured")
def test_the_structured_iterate_of_a_state_with_other_keys_is_matched_by_name(row):
    tx = row.make(regularizer=GROUPS)
    params, state = run(tx, layers(), [layers(1)])
    expected = rj.structured_params(state, GROUPS, params)
    assert_equal(rj.structured_params(keyed(state), GROUPS, params), expected)
    assert_equal(rj.structured_params(keyed(state), GROUPS), keyed(expected))
    one = rj.l1()  # acts by no name
    distances = (rj.metrics.stationarity(x, one) for x in (keyed(state), state))
    np.testing.assert_allclose(*distances, rtol=1e-6)
    support = rj.structured_support(state, GROUPS)
    assert rj.metrics.support_distance(support, keyed(support)) == 0
    flipped = keyed(support)
    flipped["10"]["w"] = ~flipped["10"]["w"]
    assert rj.metrics.support_distance(support, flipped) == support[10]["w"].size


def test_masked_leaves_are_filled_in_other_containers():
    mask = [{"w": i != 2} if i in FILLED else {} for i in range(N_LAYERS)]
    tx = optax.masked(rj.rmda(0.1, rj.l1(), 0.1), mask)
    params, state = run(tx, layers(), [layers(1)])
    expected = rj.structured_params(state, rj.l1(), params)
    assert_equal(rj.structured_params(keyed(state), rj.l1(), params), expected)
    assert_equal(expected[2], params[2])
    with pytest.raises(ValueError, match="names of the params; missing: 11/w"):
        _ = rj.structured_params(keyed(state), rj.l1(), [*params, params[1]])


def sparse(inner, **options):
    options = {"where": "*", "update_every": 2, "end_step": 10, **options}
    return rj.rigl(inner, 0.5, **options)


@pytest.mark.not_daily
@pytest.mark.parametrize("grow", these(["gradient"], ["gradient", None]))
def test_masks_with_other_keys_go_on_by_name(grow):
    tx = sparse(optax.sgd(0.1), grow=grow)
    params, state = run(tx, layers(), [layers(1), layers(2)])
    other = state._replace(masks=keyed(state.masks))
    expected = tx.update(layers(3), state, params)  # it moves the masks
    assert_equal(tx.update(layers(3), other, params), expected)
    dense = layers(4)
    masked = rj.rigl_params(state, dense)
    assert_equal(rj.rigl_params(keyed(state), dense), masked)


def test_masks_around_an_optimizer_that_goes_by_order_are_an_error():
    tx = sparse(optax.adam(0.1))
    state = tx.init(layers())
    with pytest.raises(ValueError, match="structure"):
        _ = tx.update(layers(1), keyed(state), layers())


@factories()
def test_a_state_of_other_names_is_an_error(row):
    tx = row.make(**({"regularizer": GROUPS} if row.regularized else {}))
    renamed = jax.tree.map(
        lambda node: [*node[:-1], {"v": node[-1]["w"]}] if type(node) is list else node,
        tx.init(layers()),
        is_leaf=lambda node: type(node) is list,
    )
    message = (
        "the optimizer state must have the names of the params; missing: 10/w; "
        "unexpected: 10/v. It belongs to other params: call `init` with these, or "
        "restore theirs."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        _ = tx.update(layers(1), renamed, layers())


@factories("structured")
def test_a_state_of_other_shapes_does_not_fill_params(row):
    tx = row.make(regularizer=GROUPS)
    params, state = run(tx, layers(), [layers(1)])
    params[1] = {"w": params[1]["w"][:2]}
    message = r"must have the shape of parameter '1/w', \(2, 3\), got \(4, 3\)"
    with pytest.raises(ValueError, match=message):
        _ = rj.structured_params(state, GROUPS, params)


def test_masks_of_other_shapes_are_an_error():
    params, state = layers(), sparse(optax.sgd(0.1)).init(layers())
    params[1] = {"w": params[1]["w"][:1]}
    message = r"must have the shape of parameter '1/w', \(1, 3\), got \(4, 3\)"
    with pytest.raises(ValueError, match=message):
        _ = rj.rigl_params(state, params)


@factories("regularized")
def test_boxes_in_a_list_are_welcome(row):
    tx = row.make(regularizer=GROUPS)
    state = tx.init(layers())
    boxed = jax.tree.map(lambda x: nnx.Param(x) if jnp.ndim(x) else x, state)
    expected = tx.update(layers(1), state, layers())
    assert_equal(tx.update(layers(1), boxed, layers()), expected)


def test_supports_of_other_params_are_an_error():
    support = {"a": jnp.array([True]), "b": jnp.array([True, False])}
    with pytest.raises(ValueError, match="have the same names; missing: b; unexpect"):
        _ = rj.metrics.support_distance(support, {"a": support["a"], "c": support["b"]})
    with pytest.raises(ValueError, match=r"got \(1,\) and \(2,\) for parameter 'a'"):
        _ = rj.metrics.support_distance(support, {"a": support["b"], "b": support["b"]})
