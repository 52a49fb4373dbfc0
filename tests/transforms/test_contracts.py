"""What every transformation owes its users, on every row of the table.

Most of it are laws of `rmda_jax.testing`; the rest is what the rows alone promise.
"""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj
from rmda_jax import testing
from tests._x64 import float64
from tests.transforms._table import (
    CONSTANTS,
    STEPS,
    assert_close,
    assert_equal,
    by_factory,
    by_mechanism,
    each_law,
    factories,
    gradients,
    rows,
    run,
    start,
    step_of,
)

pytestmark = pytest.mark.costly

# At night, too, what differs in its number of digits alone.
LOW = [jnp.bfloat16, pytest.param(jnp.float16, marks=pytest.mark.long)]


def is_float(x) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def specs(tree):
    return jax.tree.map(lambda x: (x.shape, jnp.dtype(x.dtype)), tree)


def zeros(tree):
    return jax.tree.map(lambda x: x == 0, tree)


# What depends on the configuration, and not only on the factory.
OF_ROWS = (
    testing.check_state,
    testing.check_zero_strength,
    testing.check_update_zeros,
    testing.check_nan_spreads,
)
# All others depend on what its programs and its state are made of.
OF_MECHANISMS = tuple(law for law in testing.UPDATE_LAWS if law not in OF_ROWS)
LAWS = each_law(testing.UPDATE_LAWS, OF_ROWS, OF_MECHANISMS)


def unregularized():
    return rj.RegularizerMap([("*", None)])


def pointers(*trees) -> list[int]:
    return [x.unsafe_buffer_pointer() for x in jax.tree.leaves(trees)]


@by_factory(rows("structured"))
def test_table_has_zeros_to_test(row):
    params, state = run(row.make(), start(), gradients())
    structured = rj.structured_params(state, row.regularizer)
    share = float(rj.metrics.sparsity(structured, row.regularizer))
    assert 0.05 < share < 0.95
    assert specs(structured) == specs(params)


@pytest.mark.parametrize(("row", "law"), LAWS)
def test_transformation_obeys_the_law(row, law):
    law(row.trial)


# --- compilation ------------------------------------------------------------------


@by_mechanism(factories("hyperparameters"))
def test_update_traces_once_over_steps_and_hyperparameters(row):
    traces = 0

    @jax.jit
    def step(hyperparameters, params, state, grads):
        nonlocal traces
        traces += 1
        return step_of(row.make(**hyperparameters))(params, state, grads)

    base = {name: CONSTANTS[name] for name in row.hyperparameters}
    changes = [{}, *({name: number / 2} for name, number in base.items())]
    results = []
    for change in changes:
        arrays = jax.tree.map(jnp.float32, {**base, **change})
        params, state = start(), row.make().init(start())
        for g in gradients():
            params, state = step(arrays, params, state, g)
        results.append(np.asarray(params["head"]["kernel"]))
        if not change:
            expected = run(row.make_constant(), start(), gradients())
            assert_close((params, state), expected, row.ulps(STEPS))
    assert traces == 1
    for result in results[1:]:
        assert not np.array_equal(result, results[0])


# --- memory -----------------------------------------------------------------------


@factories()
def test_no_two_arrays_share_a_buffer(row):
    hyperparameters = {k: jnp.float32(CONSTANTS[k]) for k in row.hyperparameters}
    tx = row.make(**hyperparameters)
    params, grads = start(), gradients(1)[0]
    state = tx.init(params)
    owned = pointers(hyperparameters, params, grads, state)
    assert len(set(owned)) == len(owned)
    updates, new_state = tx.update(grads, state, params)
    owned += pointers(updates, new_state)
    assert len(set(owned)) == len(owned)


@factories()
def test_state_is_a_named_tuple_of_arrays_that_pickles(row):
    _, state = run(row.make(), start(), gradients(2))
    assert isinstance(state, tuple)
    assert hasattr(state, "_fields")
    leaves, treedef = jax.tree.flatten(state)
    assert all(isinstance(x, jax.Array) for x in leaves)
    assert_equal(jax.tree.unflatten(treedef, leaves), state)
    restored = pickle.loads(pickle.dumps(state))
    assert type(restored) is type(state)
    assert_equal(restored, state)


@factories()
def test_tree_map_params_finds_what_is_like_the_params(row):
    tx = row.make()
    _, state = run(tx, start(), gradients(2))
    marked = optax.tree.map_params(
        tx,
        jnp.ones_like,
        state,
        transform_non_params=jnp.zeros_like,
    )
    shapes = {x.shape for x in jax.tree.leaves(start())}
    for x in jax.tree.leaves(marked):
        assert (x == (x.shape in shapes)).all()


# --- precision --------------------------------------------------------------------


@by_mechanism(factories())
def test_float64_params_are_computed_in_float64(row):
    with float64():
        tx = row.make()
        params, grads = start(np.float64), gradients(dtype=np.float64)
        state = tx.init(params)
        floats = [x for x in jax.tree.leaves(state) if is_float(x)]
        assert {x.dtype for x in floats} == {jnp.dtype(jnp.float64)}
        new_params, new_state = run(tx, params, grads)
        # A difference that float32 cannot hold arrives in full.
        other_params = jax.tree.map(lambda w: w * (1 + 2.0**-40), params)
        other_params, _ = run(tx, other_params, grads)
    assert {x.dtype for x in jax.tree.leaves(new_params)} == {jnp.dtype(jnp.float64)}
    assert specs(new_state) == specs(state)
    a = np.asarray(new_params["head"]["bias"])
    b = np.asarray(other_params["head"]["bias"])
    assert 0 < np.abs(a - b).max() < 2.0**-38


@by_mechanism(factories())
def test_float32_params_stay_float32_when_x64_is_on(row):
    tx = row.make_constant()
    with float64():
        params, state = run(tx, start(), gradients())
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    like_params = [x for x in jax.tree.leaves(state) if x.ndim and is_float(x)]
    assert {x.dtype for x in like_params} == {jnp.dtype(jnp.float32)}
    # Scalars are rounded less: what is left is the rounding of the entries.
    assert_close(params, run(tx, start(), gradients())[0], row.ulps(STEPS))


@factories("averages_gradients")
def test_low_precision_params_do_not_blur_the_state(row):
    # Params and gradients are few eighths, exact in every dtype; all else is float32.
    tx = row.make_constant()
    _, low = run(tx, start(jnp.bfloat16), gradients(dtype=jnp.bfloat16))
    _, high = run(tx, start(), gradients())
    assert_close(low, high, row.ulps(STEPS))


def check_exact_zeros(row, dtype):
    tx = row.make(**row.exact)
    structure = jax.jit(lambda state: rj.structured_params(state, row.regularizer))
    params, state = start(dtype), tx.init(start(dtype))
    found = 0
    for g in gradients(dtype=dtype):
        params, state = run(tx, params, [g], state)
        structured = structure(state)
        rounded = jax.tree.map(lambda x, w: x.astype(w.dtype), structured, params)
        # Old plus new minus old rounds twice; a metric is computed in two programs.
        assert_close(params, rounded, 2 * row.magnification)
        for w, x in zip(*map(jax.tree.leaves, (params, structured)), strict=True):
            zero = np.asarray(x) == 0
            assert (np.asarray(w)[zero] == 0).all()
            found += zero.sum()
    assert found > 0


@by_factory(rows("exact", "structured"))
def test_params_have_the_exact_zeros_of_the_structured_iterate(row):
    check_exact_zeros(row, jnp.float32)


@pytest.mark.parametrize("dtype", LOW)
@factories("exact", "structured")
def test_low_precision_params_have_the_exact_zeros_too(row, dtype):
    check_exact_zeros(row, dtype)


@pytest.mark.parametrize(
    "dtype", [pytest.param(jnp.float32, marks=pytest.mark.long), jnp.bfloat16]
)
@by_mechanism(factories("exact"))
def test_params_carry_zeros(row, dtype):
    params, _ = run(row.make(**row.exact), start(dtype), gradients(dtype=dtype))
    kernels = [layer["kernel"] for layer in params.values()]
    assert 0.05 < float(rj.metrics.sparsity(kernels)) < 0.95


# --- what is computed -------------------------------------------------------------


@by_factory(rows("first_step"))
def test_first_update_without_averaging_is_the_known_step(row):
    params, grads = start(), gradients(1)
    numbers = CONSTANTS["learning_rate"], CONSTANTS["strength"]
    expected = row.first_step(row.regularizer, params, grads[0], *numbers)
    actual, state = run(row.make_constant(**row.plain), params, grads)
    assert_close(actual, expected, row.ulps(1))
    assert_equal(zeros(actual), zeros(expected))
    if row.structured:
        structured = rj.structured_params(state, row.regularizer)
        assert_close(structured, expected, row.ulps(1))


@by_factory(rows("restarts"))
def test_restart_equals_two_fresh_optimizers(row):
    grads = gradients(6)
    chained = run(row.make_constant(restart_steps=(4,)), start(), grads, eager=True)
    fresh = row.make_constant()
    between, _ = run(fresh, start(), grads[:4], eager=True)
    params, state = run(fresh, between, grads[4:], eager=True)
    assert_equal(chained[0], params)
    assert int(chained[1].count) == 6
    assert_equal(chained[1]._replace(count=state.count), state)
    uninterrupted, _ = run(fresh, start(), grads, eager=True)
    assert not np.array_equal(uninterrupted["head"]["kernel"], params["head"]["kernel"])


@factories("restarts")
def test_restart_at_the_first_update_changes_nothing(row):
    grads = gradients(3)
    for steps in ((), (2,)):
        with_zero = row.make(restart_steps=(0, *steps))
        without = row.make(restart_steps=steps)
        assert_equal(
            run(with_zero, start(), grads, eager=True),
            run(without, start(), grads, eager=True),
        )


@factories("restarts", "first_step")
def test_schedules_see_the_count_over_the_whole_run(row):
    rates, strengths = jnp.array([0.1, 0.2, 0.3]), jnp.array([0.3, 0.2, 0.1])
    tx = row.make_constant(
        learning_rate=lambda count: rates[count],
        strength=lambda count: strengths[count],
        restart_steps=(2,),
        **row.plain,
    )
    grads = gradients(3)
    before, state = run(tx, start(), grads[:2])
    actual, _ = run(tx, before, grads[2:], state)
    # The third update restarts: it is a first step, with the values of count 2.
    expected = row.first_step(row.regularizer, before, grads[2], 0.3, 0.1)
    assert_close(actual, expected, row.ulps(1))


@factories("structured", "averages_gradients")
def test_averaging_schedule_mixes_old_params_and_structured_iterate(row):
    averages = jnp.array([1.0, 0.25, 0.5, 1.0])
    tx = row.make(averaging=lambda count: averages[count])
    params, state = start(), tx.init(start())
    for c, g in zip(averages, gradients(4), strict=True):
        new_params, state = run(tx, params, [g], state)
        structured = rj.structured_params(state, row.regularizer)
        expected = jax.tree.map(
            lambda w, q, c=c: (1 - c) * w + c * q, params, structured
        )
        assert_close(new_params, expected, 4)
        params = new_params


@factories("averages_gradients")
def test_variance_of_the_mean_gradient_dies_out(row):
    steps, n, mean, sigma = 400, 2**14, 0.7, 2.0
    tx = row.make_constant(regularizer=unregularized())
    frozen = jnp.zeros(n)

    def update(state, key):
        noise = mean + sigma * jax.random.normal(key, (n,))
        return tx.update(noise, state, frozen)[1], None

    keys = jax.random.split(jax.random.key(0), steps)
    state, _ = jax.lax.scan(update, tx.init(frozen), keys)
    averaged = np.asarray(state.mean_gradient())
    law = sigma * np.sqrt(9 / (8 * steps))
    # Over n entries the mean strays by law/sqrt(n), the deviation by law/sqrt(2n), in
    # one of 15,000 draws by four times that; the law itself holds up to 1/(4t).
    assert abs(averaged.mean() - mean) < 4 * law / np.sqrt(n)
    relative = 4 / np.sqrt(2 * n) + 1 / (4 * steps)
    assert abs(averaged.std() / law - 1) < relative
