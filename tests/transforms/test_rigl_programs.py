"""RigL and its kin as programs: compiled, wrapped by Optax, given what they refuse."""

import pickle
import re

import jax
import jax.numpy as jnp
import optax
import pytest

from rmda_jax.transforms._rigl import RigLState, rigl
from rmda_jax.transforms._rigl_params import rigl_params
from tests._daily import these
from tests.transforms._sparse import (
    ADAM,
    LABELS,
    METHODS,
    assert_close,
    assert_equal,
    counts,
    gradients,
    history_of,
    jitted,
    make,
    run,
    step_of,
    tree,
)

pytestmark = pytest.mark.costly

methods = pytest.mark.parametrize("method", METHODS)


# --- programs ---------------------------------------------------------------------


def test_jit_and_eager_agree():
    eager = run(make(), grads=gradients(3), step=step_of(make()))
    assert_close(eager, history_of()[:4])


# By default growing and pruning alone, the two that the others are made of.
@pytest.mark.parametrize("method", these(("rigl", "pruning"), METHODS))
def test_state_is_a_scan_carry(method):
    tx = make(**METHODS[method])
    step = lambda carry, grads: (step_of(tx)(grads, *carry[::-1]), None)
    grads = jax.tree.map(lambda *g: jnp.stack(g), *gradients())
    state = tx.init(tree(0))
    carry = rigl_params(state, tree(0)), state
    scanned, _ = jax.jit(lambda carry: jax.lax.scan(step, carry, grads))(carry)
    assert_close(scanned, history_of(method=method)[-1])


def test_params_and_state_can_be_donated():
    tx = make()
    params, state = tree(0), tx.init(tree(0))
    step = jax.jit(step_of(tx), donate_argnums=(1, 2))
    for t in range(4):
        buffers = jax.tree.leaves((params, state.masks, state.inner_state[0].mu))
        params, state = step(gradients()[t], state, params)
        assert all(x.is_deleted() for x in buffers)
    assert_close(jax.device_get((params, state)), history_of()[4])


@methods
def test_state_is_stable_abstract_and_picklable(method):
    tx = make(**METHODS[method])
    shapes = jax.eval_shape(lambda: tree(0))
    state = jax.eval_shape(tx.init, shapes)
    updates, new_state = jax.eval_shape(tx.update, shapes, state, shapes)
    types = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)
    assert types(new_state) == types(state)
    assert types(updates) == types(shapes)
    assert isinstance(state, RigLState)
    assert all(m.dtype == bool for m in jax.tree.leaves(state.masks))
    state = tx.init(tree(0))
    assert_equal(pickle.loads(pickle.dumps(state)), state)
    # Masks and slots are like the params for Optax, and nothing else is.
    marked = optax.tree.map_params(
        tx, lambda x, w: w, state, tree(3), transform_non_params=lambda x: -1
    )
    assert_equal(marked.masks, tree(3))
    assert_equal(marked.inner_state[0].mu, tree(3))
    assert marked.count == marked.inner_state[0].count == -1


@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.long)]
)
def test_updates_have_the_dtype_of_the_params(dtype):
    inner = optax.sgd(0.1, momentum=0.9, accumulator_dtype=jnp.float32)
    tx = make(inner)
    history = run(tx, tree(0, dtype), gradients(dtype=dtype))
    wide = jax.eval_shape(tx.init, tree(0))  # its params were float32
    updates, _ = jax.eval_shape(tx.update, tree(1, dtype), wide, tree(0, dtype))
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    for params, state in history:
        assert_equal(params, jax.device_get(rigl_params(state, params)))
        assert counts(state.masks) == counts(history[0][1].masks)


def test_multi_steps_rewires_with_the_mean_of_the_gradients():
    grads = gradients()[:8]
    means = [
        jax.tree.map(lambda a, b: (a + b) / 2, *pair)
        for pair in zip(grads[::2], grads[1::2], strict=True)
    ]
    accumulated = run(optax.MultiSteps(make(), 2), grads=grads)[-1]
    params, state = run(make(), grads=means)[-1]
    assert_close(accumulated[0], params)
    assert_equal(accumulated[1].inner_opt_state.masks, state.masks)


def test_drop_fraction_can_be_injected_and_changed():
    static = ("sparsity", "update_every", "begin_step", "end_step")
    inject = optax.inject_hyperparams(rigl, static_args=static)
    tx = inject(ADAM, 0.8, update_every=2, end_step=6, drop_fraction=0.5)
    injected, plain = run(tx), history_of()
    assert injected[0][1].hyperparams.keys() == {"drop_fraction"}
    assert_close(injected[-1][0], plain[-1][0])
    assert_equal(injected[-1][1].inner_state.masks, plain[-1][1].masks)
    params, state = injected[2]
    state.hyperparams["drop_fraction"] = jnp.float32(0.0)
    _, state = jitted(tx)(gradients()[2], state, params)
    assert_equal(state.inner_state.masks, injected[2][1].inner_state.masks)


@pytest.mark.not_daily
def test_drop_fraction_can_be_vmapped():
    params, grads = tree(0), gradients()[2]

    def masks(alpha):
        tx = make(drop_fraction=alpha)
        state = tx.init(params)._replace(count=jnp.int32(2))
        return tx.update(grads, state, rigl_params(state, params))[1].masks

    alphas, alone = jnp.array([0.0, 0.4, 1.0]), jax.jit(masks)
    lanes = jax.jit(jax.vmap(masks))(alphas)
    for i, alpha in enumerate(alphas):
        assert_equal(jax.tree.map(lambda x, i=i: x[i], lanes), alone(alpha))


# --- rigl_params ----------------------------------------------------------------

NESTINGS = {
    "chain": lambda tx: optax.chain(optax.clip(1.0), tx),
    "multi steps": lambda tx: optax.MultiSteps(tx, 2),
    "apply if finite": lambda tx: optax.apply_if_finite(tx, 3),
    "masked": lambda tx: optax.masked(tx, jax.tree.map(lambda _: True, tree(0))),
}


@pytest.mark.parametrize("nesting", NESTINGS)
def test_rigl_params_finds_the_masks_in_any_nesting(nesting):
    state = NESTINGS[nesting](make()).init(tree(0))
    expected = rigl_params(make().init(tree(0)), tree(0))
    assert_equal(rigl_params(state, tree(0)), expected)
    assert_equal(jax.jit(rigl_params)(state, tree(0)), expected)
    assert not expected["head"]["kernel"].all()


def test_rigl_params_of_a_partition():
    parts = {"a": make(sparsity=0.5), "b": optax.sgd(0.1)}
    state = optax.partition(parts, LABELS).init(tree(0))
    params = rigl_params(state, tree(0))
    assert_equal(params["conv"]["bias"], tree(0)["conv"]["bias"])
    kernels = [params[layer]["kernel"] for layer in ("conv", "head")]
    assert sum(int((w != 0).sum()) for w in kernels) == 448 // 2
    both = {"a": make(sparsity=0.5), "b": make(sparsity=0.5, where="*")}
    params = rigl_params(optax.partition(both, LABELS).init(tree(0)), tree(0))
    assert int((params["conv"]["bias"] != 0).sum()) == 4


def test_rigl_params_without_masks():
    for state in (ADAM.init(tree(0)), (), tree(0)):
        with pytest.raises(TypeError, match="holds no state of rigl, got"):
            rigl_params(state, tree(0))


# --- bad input --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"inner": optax.adam}, TypeError, "`inner` must be a gradient transformation"),
        ({"inner": None}, TypeError, "such as optax.sgd(0.1), got None"),
        ({"sparsity": -0.1}, ValueError, "`sparsity` must be at least 0, got -0.1"),
        ({"sparsity": 1.0}, ValueError, "`sparsity` must be less than 1, got 1.0"),
        ({"sparsity": float("nan")}, ValueError, "`sparsity` must be at least 0, got"),
        ({"sparsity": "0.5"}, TypeError, "`sparsity` must be a number, got '0.5'"),
        (
            {"sparsity": jnp.float32(0.5)},
            TypeError,
            "`sparsity` must be a Python number, got an array. With "
            "optax.inject_hyperparams, name it in static_args.",
        ),
        ({"update_every": 0}, ValueError, "`update_every` must be at least 1, got 0"),
        ({"update_every": 2.0}, TypeError, "`update_every` must be an integer, got"),
        ({"begin_step": -1}, ValueError, "`begin_step` must be at least 0, got -1"),
        ({"end_step": 0}, ValueError, "`end_step` must be at least 1, got 0"),
        ({"end_step": 1}, ValueError, "the masks would never change: no multiple of"),
        ({"begin_step": 7}, ValueError, "`begin_step` and `end_step`, got 7 and 6"),
        ({"end_step": None}, ValueError, "`end_step` must be given, got None. The dr"),
        (
            {"end_step": None, "grow": None, "gradual": True},
            ValueError,
            "`end_step` must be given, got None",
        ),
        ({"drop_fraction": 1.5}, ValueError, "`drop_fraction` must lie in [0, 1], got"),
        ({"drop_fraction": "1"}, TypeError, "`drop_fraction` must be a number, an arr"),
        (
            {"distribution": "er"},
            ValueError,
            "`distribution` must be one of 'erk', 'uniform', got 'er'",
        ),
        (
            {"grow": "momentum"},
            ValueError,
            "`grow` must be one of 'gradient', 'random', None, got 'momentum'",
        ),
        ({"where": 5}, TypeError, "`where` must be a pattern or patterns, got 5"),
        (
            {"dense": (None,)},
            TypeError,
            "`dense` must be a pattern or patterns, got (No",
        ),
    ],
)
def test_bad_argument(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"where": "*/weight"},
            "rule '*/weight' matches no parameter. The names are: conv/bias, "
            "conv/kernel, head/kernel.",
        ),
        ({"dense": "input/*"}, "rule 'input/*' matches no parameter. The names are"),
        ({"dense": "*"}, "rule '*' never acts: earlier rules take all it matches"),
        (
            {"dense": "*/kernel"},
            "no parameter has two axes, so that nothing would be sparse. The names "
            "are: conv/bias, conv/kernel, head/kernel. Choose some with `where`.",
        ),
    ],
)
def test_patterns_that_do_not_fit_the_params(arguments, message):
    tx = make(**arguments)
    with pytest.raises(ValueError, match=re.escape(message)):
        tx.init(tree(0))


def test_bad_trees():
    tx, params = make(), tree(0)
    state = tx.init(params)
    with pytest.raises(ValueError, match="`params` must be passed to `update`, got No"):
        tx.update(params, state)
    with pytest.raises(ValueError, match="must have the same tree structure"):
        tx.update(params["conv"], state, params)
    with pytest.raises(TypeError, match="must be real floating, got dtype int32"):
        tx.init({"kernel": jnp.ones((3, 3), jnp.int32)})
    with pytest.raises(ValueError, match="the tree of params is empty"):
        tx.init({})
