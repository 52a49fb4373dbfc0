"""Everything public lowers for every platform, and computes on the one that is here."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export

import rmda_jax as rj
from tests import _table
from tests._daily import first_of_each
from tests.transforms._table import GROUPS, ROWS, by_factory, rows, run, start

pytestmark = pytest.mark.costly

PLATFORMS = ("cpu", "cuda", "tpu")

# (name, what) -> the words in which JAX refuses. What is listed and lowers, fails.
NO_LOOP_BACKWARDS = "Reverse-mode differentiation does not work for lax.while_loop"
REFUSED = {
    ("total_variation", "gradient"): NO_LOOP_BACKWARDS,
    ("fused_lasso", "gradient"): NO_LOOP_BACKWARDS,
}


def lower(function, *arguments) -> export.Exported:
    """Lower for all platforms at once; neither devices nor compilers are needed."""
    return export.export(jax.jit(function), platforms=PLATFORMS)(*arguments)


def check_lowers(name, what, function, *arguments):
    if (name, what) in REFUSED:
        with pytest.raises(Exception, match=REFUSED[name, what]):
            lower(function, *arguments)
        return
    exported = lower(function, *arguments)
    assert exported.platforms == PLATFORMS
    assert jax.tree.structure(jax.eval_shape(function, *arguments)).num_leaves == len(
        exported.out_avals
    )


def test_factories_are_all_listed():
    tied = {"tied_group_lasso", "on_tied_groups"}
    assert _table.ARGUMENTS.keys() | tied == _table.public_factories()


X = jax.ShapeDtypeStruct((3, 8, 4), jnp.float32)
T = jax.ShapeDtypeStruct((), jnp.float32)
METHODS = {
    "value": (X,),
    "prox": (X, T),
    "support": (X,),
    "prox_support": (X, T),
    "snap": (X,),
    "subgradient_distance": (X, X, T),
}
# What only some regularizers have: they say so when asked.
OPTIONAL = {"metric_prox": (X, T, X), "margin": (X, X, T)}


def exists(function, *arguments) -> bool:
    try:
        _ = jax.eval_shape(function, *arguments)
    except NotImplementedError:
        return False
    return True


def of_kind(name):
    return _table.kind(_table.regularizer(name))


@pytest.mark.parametrize("name", first_of_each(of_kind, sorted(_table.ARGUMENTS)))
def test_regularizer_lowers(name):
    regularizer = _table.regularizer(name)
    for method, arguments in (METHODS | OPTIONAL).items():
        function = getattr(regularizer, method)
        if method in OPTIONAL and not exists(function, *arguments):
            continue
        check_lowers(name, method, function, *arguments)
    gradient = jax.grad(lambda x, t: jnp.sum(regularizer.prox(x, t)))
    check_lowers(name, "gradient", gradient, X, T)


@pytest.mark.parametrize("method", ["value", "prox", "support", "snap"])
def test_map_lowers(method):
    arguments = (start(), 0.1) if method == "prox" else (start(),)
    check_lowers("RegularizerMap", method, getattr(GROUPS, method), *arguments)


@by_factory(rows())
def test_transformation_lowers(row):
    tx = row.make()
    state = jax.eval_shape(tx.init, start())
    check_lowers(row.name, "init", tx.init, start())
    check_lowers(row.name, "update", tx.update, start(), state, start())
    if row.averages_gradients:
        check_lowers(row.name, "mean_gradient", lambda s: s.mean_gradient(), state)


OF_STATE = {
    "structured_params": rj.structured_params,
    "structured_support": rj.structured_support,
    "metrics.stationarity": rj.metrics.stationarity,
    "metrics.margin": rj.metrics.margin,
    "metrics.summary": rj.metrics.summary,
}


@pytest.mark.parametrize("name", OF_STATE)
@by_factory(rows("structured"))
def test_function_of_the_state_lowers(row, name):
    state = jax.eval_shape(row.make().init, start())
    function = functools.partial(OF_STATE[name], regularizer=row.regularizer)
    check_lowers(row.name, name, function, state)


def supports():
    return GROUPS.support(start())


def recorded():
    return jax.tree.map(lambda x: jnp.stack([x, x]), supports())


def group_sparsity(weighting):
    return lambda p: rj.metrics.group_sparsity(p, GROUPS, weighting)


def rigl_state():
    return rj.rigl(optax.sgd(0.1), 0.5, end_step=100).init(start())


def gates():
    return rj.gate_params(start(), GROUPS)


BUDGET = rj.rmda(0.1, GROUPS, rj.budget(groups=0.5))


def budget_state():
    return BUDGET.init(start())


def budget_step(params, grads, state):
    return BUDGET.update(grads, state, params)


RECIPE = rj.stages(0.1, (2, 4), averaging=0.1)
SQRT = rj.stages(0.1, (2, 4), averaging=0.1, ramp="sqrt")
FUNCTIONS = {
    "metrics.sparsity": (rj.metrics.sparsity, start),
    "metrics.group_sparsity": (group_sparsity("unweighted"), start),
    "metrics.group_sparsity by size": (group_sparsity("size"), start),
    "metrics.group_sparsity by kernel": (group_sparsity("kernel"), start),
    "metrics.rank": (rj.metrics.rank, supports),
    "metrics.support_distance": (rj.metrics.support_distance, supports, supports),
    "metrics.update_stable_since": (
        rj.metrics.update_stable_since,
        supports,
        supports,
        lambda: jnp.int32(0),
        lambda: jnp.int32(7),
    ),
    "metrics.stable_since": (rj.metrics.stable_since, recorded),
    "metrics.supported_size": (
        functools.partial(rj.metrics.supported_size, regularizer=GROUPS),
        budget_state,
    ),
    "budget": (budget_step, start, start, budget_state),
    "rigl_params": (rj.rigl_params, rigl_state, start),
    "tied_group_lasso": (
        lambda a, b: rj.tied_group_lasso((0, 1)).prox((a, b), 0.5),
        lambda: jnp.ones((4, 3)),
        lambda: jnp.ones((2, 4)),
    ),
    "on_tied_groups": (
        lambda a, b: rj.regularizers.on_tied_groups(rj.mcp(), (0, 1)).metric_prox(
            (a, b), 0.5, 2.0
        ),
        lambda: jnp.ones((4, 3)),
        lambda: jnp.ones((2, 4)),
    ),
    "least_squares_levels": (
        lambda x: rj.regularizers.least_squares_levels(x, 2, channel_axis=-1),
        lambda: jnp.ones((4, 3)),
    ),
    "least_squares_levels, ternary": (
        lambda x: rj.regularizers.least_squares_levels(x, 0),
        lambda: jnp.ones((4, 3)),
    ),
    "reweighting": (rj.regularizers.reweighting, lambda: jnp.ones((4, 3))),
    "gate_params": (lambda p: rj.gate_params(p, GROUPS), start),
    "gate_penalty": (lambda gated: rj.gate_penalty(gated, GROUPS), gates),
    "collapse_gates": (rj.collapse_gates, gates),
    "parq_annealing": (rj.parq_annealing(0, 9), lambda: jnp.int32(3)),
    "stages": (RECIPE["learning_rate"], lambda: jnp.int32(3)),
    "stages, averaging": (RECIPE["averaging"], lambda: jnp.int32(3)),
    "stages, square root": (SQRT["averaging"], lambda: jnp.int32(3)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_lowers(name):
    function, *makers = FUNCTIONS[name]
    check_lowers(name, "call", function, *(make() for make in makers))


def public_functions(module, prefix="") -> set[str]:
    named = {prefix + name: getattr(module, name) for name in dir(module)}
    return {
        name
        for name, thing in named.items()
        if callable(thing) and not isinstance(thing, type) and "._" not in f".{name}"
    }


def test_no_public_function_is_left_out():
    tested = {name.split(",")[0].split(" ")[0] for name in (*OF_STATE, *FUNCTIONS)}
    tested |= {
        row.public or row.factory.__name__ for row in ROWS
    } | _table.ARGUMENTS.keys()
    public = public_functions(rj) | public_functions(rj.regularizers)
    public |= public_functions(rj.metrics, "metrics.")
    # It takes batches from the host, and returns numbers to it.
    assert public - {"suggest_strength"} == tested


def test_what_does_not_lower_is_noticed():
    # JAX has general eigenvalues on the CPU alone.
    with pytest.raises(NotImplementedError, match="eig"):
        check_lowers("eigvals", "call", jnp.linalg.eigvals, jnp.eye(2))


# --- closed forms, on whatever accelerator is present -----------------------------


@pytest.fixture
def device():
    with jax.default_device(jax.devices()[0]) as device:
        yield device


def test_soft_threshold_on_the_device(device):
    x = np.linspace(-2, 2, 17, dtype=np.float32)
    actual = jax.jit(rj.l1().prox)(x, 0.5)
    assert actual.devices() == {jax.devices()[0]}
    expected = np.sign(x) * np.maximum(np.abs(x) - np.float32(0.5), 0)
    chex.assert_trees_all_equal(np.asarray(actual), expected)


def test_group_shrinkage_on_the_device(device):
    # Norms 5 and 1/2 against the level 2 sqrt(2) = 2.83 of groups of two.
    x = np.array([[3.0, 4.0], [0.3, 0.4]], np.float32)
    actual = jax.jit(rj.group_lasso(group_axes=0).prox)(x, 2.0)
    expected = np.array([[3.0, 4.0], [0, 0]]) * (1 - 2 * np.sqrt(2) / 5)
    chex.assert_trees_all_close(actual, expected.astype(np.float32), rtol=1e-6)
    chex.assert_trees_all_equal(np.asarray(actual)[1], np.zeros(2, np.float32))


def test_singular_values_on_the_device(device):
    # The singular values of this matrix are 4 and 2.
    x = np.array([[3.0, 1.0], [1.0, 3.0]], np.float32)
    actual = jax.jit(rj.nuclear_norm().prox)(x, 3.0)
    chex.assert_trees_all_close(actual, np.full((2, 2), 0.5, np.float32), atol=2e-6)


def test_dual_averaging_on_the_device(device):
    # With gradient 1 throughout and learning rate 1, alpha_t = V_t = sum of sqrt(k):
    # from W_0 = 6 the structured iterate is 6 - tau - strength * tau.
    tx = rj.rmda(1.0, rj.l1(), 0.5, averaging=1.0)
    grads = [jnp.ones(3)] * 4
    params, state = run(tx, jnp.full(3, 6.0), grads)
    tau = np.sum(np.sqrt(np.arange(1, 5))) / 2
    expected = np.full(3, 6 - 1.5 * tau, np.float32)
    chex.assert_trees_all_close(params, expected, rtol=1e-6)
    chex.assert_trees_all_close(
        rj.structured_params(state, rj.l1()), expected, rtol=1e-6
    )
    chex.assert_tree_all_finite(state)
