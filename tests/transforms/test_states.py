"""What is said of states and params that are not the right ones."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import rmda_jax as rj
from tests.transforms._table import factories, gradients, run, start

pytestmark = pytest.mark.costly

READERS = [
    lambda state: rj.structured_params(state, rj.l1()),
    lambda state: rj.structured_support(state, rj.l1()),
    lambda state: rj.metrics.stationarity(state, rj.l1()),
    lambda state: rj.metrics.margin(state, rj.l1()),
    lambda state: rj.metrics.supported_size(state, rj.l1()),
]
_LATENT = (
    "of latent, aprox, normal_map or linbreg: its params carry the exact zeros "
    "themselves"
)
REMARKS = {
    "proxsgd": "the state of proxsgd: its params carry the exact zeros themselves",
    "proxgen": "of proxgen or proxssi: its params carry the exact zeros themselves",
    "proxssi": "of proxgen or proxssi: its params carry the exact zeros themselves",
    "proxsgd_adaptive": "convex combinations, which are never exactly zero, .* proxsgd",
    "aprox": _LATENT,
    "normal_map": _LATENT,
    "linbreg": _LATENT,
    "latent": _LATENT,
    "heal": "of heal: once it heals, its params carry the exact zeros themselves",
    "rigl": "of rigl: its params are exactly zero where it has no weight",
}


def public_name(row):
    return row.public or row.factory.__name__


@pytest.mark.parametrize("read", READERS)
@factories()
def test_state_without_an_iterate_is_told_where_the_zeros_are(row, read):
    if row.structured or row.latent:
        return
    state = row.make().init(start())
    for nested in (state, (optax.EmptyState(), state), {"opt_state": state}):
        with pytest.raises(TypeError, match=REMARKS[public_name(row)]):
            read(nested)


@factories()
def test_state_without_masks_is_told_where_the_zeros_are(row):
    state = row.make().init(start())
    if public_name(row) == "rigl":
        assert rj.rigl_params(state, start())
        return
    iterate = "`structured_params` of it carries the exact zeros"
    message = REMARKS.get(public_name(row), iterate)
    with pytest.raises(TypeError, match=message):
        rj.rigl_params(state, start())


class Net(nnx.Module):
    def __init__(self):
        self.layer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))


def test_state_of_an_nnx_optimizer_is_told_where_the_zeros_are():
    model = Net()
    optimizer = nnx.Optimizer(model, rj.proxsgd(0.1, rj.l1(), 0.1), wrt=nnx.Param)
    with pytest.raises(TypeError, match=REMARKS["proxsgd"]):
        rj.structured_params(optimizer.opt_state, rj.l1())


@factories("regularized")
def test_gradients_of_an_nnx_model_that_do_not_fit(row):
    model = Net()
    tx = row.make(regularizer=rj.l1())
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    grads = jax.tree.map(lambda x: x[:1], nnx.state(model, nnx.Param))
    message = "the gradient of parameter 'layer/bias' must have its shape"
    with pytest.raises(ValueError, match=message):
        optimizer.update(model, grads)


# --- states of several devices, runs, kinds ---------------------------------------


def replicated(tree):
    return jax.tree.map(lambda x: jnp.stack([x, x]), tree)


ONE_NUMBER = (
    "the state's `count` must be one number, got shape (2,): the state is replicated "
    "over devices by `jax.pmap`, or stacked by `jax.vmap`. Take one of it, "
    "flax.jax_utils.unreplicate(state) or jax.tree.map(lambda x: x[0], state)"
)


@factories()
def test_update_with_a_replicated_state(row):
    tx, params = row.make(), start()
    state = replicated(tx.init(params))
    for trees in ((params, params), (replicated(params), replicated(params))):
        with pytest.raises(ValueError, match=re.escape(ONE_NUMBER)):
            tx.update(trees[0], state, trees[1])


@pytest.mark.not_daily
@pytest.mark.parametrize("read", READERS)
@factories("structured")
def test_reading_a_replicated_state(row, read):
    _, state = run(row.make(regularizer=rj.l1()), start(), gradients(1))
    with pytest.raises(ValueError, match=re.escape(ONE_NUMBER)):
        read(replicated(state))
    assert jax.tree.leaves(jax.vmap(read)(replicated(state)))


def test_masks_of_a_replicated_state():
    state = rj.rigl(optax.sgd(0.1), 0.5, end_step=100).init(start())
    with pytest.raises(ValueError, match=re.escape(ONE_NUMBER)):
        rj.rigl_params(replicated(state), start())


@factories()
def test_update_with_a_state_of_another_kind(row):
    tx, params = row.make(), start()
    state = tx.init(params)
    kind = type(state).__name__
    for bad in (optax.EmptyState(), tuple(state), state._asdict(), params):
        message = f"`state` must be the {kind} that .* got {type(bad).__name__}. Call"
        with pytest.raises(TypeError, match=message):
            tx.update(params, bad, params)
    with pytest.raises(TypeError, match=r"update\(grads, state, params\)`, in this or"):
        tx.update(params, params, state)


# --- leaves that are no arrays ----------------------------------------------------


class Model(eqx.Module):
    weight: jax.Array
    activation: object = jax.nn.relu


NO_ARRAY = (
    "parameters must be arrays, got .* for parameter 'activation'. Leave other leaves "
    r"out: with Equinox, pass eqx.filter\(model, eqx.is_inexact_array\)"
)


@factories()
def test_equinox_model_with_a_function(row):
    tx = row.make(**({"regularizer": rj.l1()} if row.regularized else {}))
    model = Model(jnp.ones((4, 4)))
    params = eqx.filter(model, eqx.is_inexact_array)
    state = tx.init(params)
    with pytest.raises(TypeError, match=NO_ARRAY):
        tx.init(model)
    with pytest.raises(TypeError, match=NO_ARRAY):
        tx.update(params, state, model)
    assert tx.update(params, state, params)


def test_sparsity_of_an_equinox_model_with_a_function():
    with pytest.raises(TypeError, match=NO_ARRAY):
        rj.metrics.sparsity(Model(jnp.ones((4, 4))))


def test_random_key_among_the_params():
    params = {"w": jnp.ones(3), "key": jax.random.key(0)}
    message = "must be real floating, got dtype key<fry> for parameter 'key'"
    with pytest.raises(TypeError, match=message):
        rj.rmda(0.1, rj.l1(), 0.1).init(params)


# --- what stands after it in a chain ----------------------------------------------

PLATEAU = optax.contrib.reduce_on_plateau()


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("after", "state"),
    [
        (optax.add_decayed_weights(0.1), "EmptyState"),
        (optax.scale_by_schedule(lambda count: 1.0), "ScaleByScheduleState"),
        (PLATEAU, "ReduceLROnPlateauState"),
    ],
    ids=["weight decay", "schedule", "plateau"],
)
@factories("structured")
def test_what_stands_after_it_is_told_by_place_and_remedy(row, after, state, read):
    tx = optax.chain(optax.clip(1.0), row.make(), after)
    message = (
        f"place 3 of 3, whose state is {state}: .* `learning_rate`, which "
        "optax.inject_hyperparams lets .* Weight decay is a regularizer, squared_l2 or"
    )
    # Known as soon as there is a state, before the first update.
    with pytest.raises(ValueError, match=message):
        read(tx.init(start()))
