"""Random trees, rules and wrappers: RMDA trains as the formulas of its paper say.

The oracle keeps the paper's sums in float64, leaf by leaf, and knows neither trees nor
wrappers. It takes the prox of a leaf from the regularizer, which tests/oracles hold.
"""

import os

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax

import rmda_jax as rj

N_CASES = 3000 if "RMDA_LONG" in os.environ else 5

# Few shapes, for every other compiles its own operations. All proxes are continuous:
# rounding cannot move a result by more than itself.
ENTRIES = [None, rj.l1(), rj.elastic_net(), rj.regularizers.boxed(rj.l1(), -0.5, 0.5)]
VECTORS = [
    *ENTRIES,
    rj.group_lasso(-1),
    rj.group_lasso(()),
    rj.regularizers.group_linf(-1),
]
MATRICES = [*VECTORS, rj.group_lasso(-2), rj.sparse_group_lasso(-2), rj.nuclear_norm()]
REGULARIZERS = {(): ENTRIES, (3,): VECTORS, (2, 3): MATRICES, (2, 1, 3): MATRICES}
TIE = rj.tied_group_lasso((-1, -1))

leaves = st.sampled_from([*REGULARIZERS, (0, 3)])
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=4,
)
WRAPPERS = ["chain", "named", "inject", "masked", "partition", "finite", "multi"]


def is_shape(node):
    return isinstance(node, tuple)


def named(tree):
    """Return names and shapes of the leaves, in order."""
    paths = jax.tree.flatten_with_path(tree, is_leaf=is_shape)[0]
    name = lambda path: "/".join(
        str(getattr(k, "key", getattr(k, "idx", k))) for k in path
    )
    return [(name(path), shape) for path, shape in paths]


@st.composite
def cases(draw):
    tree = draw(trees)
    rules, free = [], named(tree)
    ranked = [name for name, shape in free if shape and shape != (0, 3)]
    if len(ranked) > 1 and draw(st.booleans()):
        pair = tuple(draw(st.permutations(ranked))[:2])
        rules.append((pair, TIE, draw(st.sampled_from([0.5, 1.0]))))
        free = [(name, shape) for name, shape in free if name not in pair]
    for name, shape in free:
        options = REGULARIZERS.get(shape, VECTORS)
        rules.append(
            (name, draw(st.sampled_from(options)), draw(st.sampled_from([0.5, 2.0])))
        )
    return dict(
        tree=tree,
        rules=rules,
        wrappers=draw(st.lists(st.sampled_from(WRAPPERS), max_size=3, unique=True)),
        learning_rate=draw(st.sampled_from([0.1, 1.0])),
        strength=draw(st.sampled_from([0.0, 0.3, 1.0])),
        averaging=draw(st.sampled_from([0.3, 1.0])),
        restart_steps=draw(st.sampled_from([(), (0,), (1,), (2, 3)])),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def wrapped(case, regularizer):
    """Return RMDA inside the wrappers of a case, the first innermost."""
    names = "learning_rate", "strength", "averaging", "restart_steps"
    arguments = {name: case[name] for name in names} | {"regularizer": regularizer}
    make = rj.rmda
    if "inject" in case["wrappers"]:
        make = optax.inject_hyperparams(make, static_args="restart_steps")
    tx = make(**arguments)
    everywhere = lambda value: lambda tree: jax.tree.map(lambda _: value, tree)
    around = {
        "chain": lambda tx: optax.chain(optax.clip(1e6), tx),
        "named": lambda tx: optax.named_chain(("clip", optax.clip(1e6)), ("rmda", tx)),
        "inject": lambda tx: tx,
        "masked": lambda tx: optax.masked(tx, everywhere(True)),
        "partition": lambda tx: optax.partition({"all": tx}, everywhere("all")),
        "finite": lambda tx: optax.apply_if_finite(tx, 5),
        "multi": lambda tx: optax.MultiSteps(tx, 2),
    }
    # Optax's MultiSteps keeps a NaN for ever: what rejects it stands outside.
    for name in sorted(case["wrappers"], key="finite".__eq__):
        tx = around[name](tx)
    return tx


def paper(case, bounds, w, grads):
    """Return params and structured iterate of Algorithm 1, each a list of leaves."""
    w = [np.float64(x) for x in w]
    t = 0
    for count, gs in enumerate(grads):
        if t == 0 or count in case["restart_steps"]:
            t, alpha, anchor, v = 0, 0.0, w, [0.0] * len(w)
        t += 1
        s = case["learning_rate"] * np.sqrt(t)
        alpha += s
        v = [v + s * np.float64(g) for v, g in zip(v, gs, strict=True)]
        centers = [
            jnp.float32(a - v / np.sqrt(t)) for a, v in zip(anchor, v, strict=True)
        ]
        structured = list(centers)
        for i, bound in enumerate(bounds):
            if bound.regularizer is not None and i == min(bound.leaves):
                step_size = alpha / np.sqrt(t) * case["strength"] * bound.multiplier
                new = bound.regularizer.prox(bound.take(centers), step_size)
                bound.put(structured, new)
        structured = [np.float64(x) for x in structured]
        c = case["averaging"]
        w = [(1 - c) * w + c * q for w, q in zip(w, structured, strict=True)]
    return w, structured


def assert_near(actual, desired):
    for x, y in zip(actual, desired, strict=True):
        # Some thirty roundings of numbers as large as 8, the sums of the gradients.
        np.testing.assert_allclose(x, y, rtol=0, atol=30 * 8 * 1.2e-7)


def check(case):
    rng = np.random.default_rng(case["seed"])
    shapes, treedef = jax.tree.flatten(case["tree"], is_leaf=is_shape)
    draw = lambda: [jnp.float32(np.clip(rng.normal(size=s), -2, 2)) for s in shapes]
    rules = rj.RegularizerMap(case["rules"])
    tx = wrapped(case, rules)
    w, grads = draw(), [draw() for _ in range(4)]
    params = treedef.unflatten(w)
    state = tx.init(params)
    for gs in grads:
        fed = [gs]
        if "multi" in case["wrappers"]:  # two that have the gradient as their mean
            fed = [[g + 1 for g in gs], [g - 1 for g in gs]]
        if "finite" in case["wrappers"] and rng.random() < 0.5:
            poison = [jnp.full_like(g, rng.choice([np.nan, np.inf])) for g in gs]
            fed = [poison, *fed]
        for one in fed:
            updates, state = tx.update(treedef.unflatten(one), state, params)
            params = optax.apply_updates(params, updates)
    expected, structure = paper(case, rules.resolve(params), w, grads)
    assert_near(jax.tree.leaves(params), expected)
    assert jax.tree.structure(params) == treedef
    structured = rj.structured_params(state, rules)
    assert_near(jax.tree.leaves(structured), structure)
    if case["averaging"] == 1:
        for x, q in zip(*map(jax.tree.leaves, (params, structured)), strict=True):
            np.testing.assert_array_equal(x == 0, q == 0)


@hypothesis.settings(
    max_examples=N_CASES,
    suppress_health_check=list(hypothesis.HealthCheck),
    database=None,
)
@hypothesis.given(cases())
def test_random_programs_train_as_the_paper_says(case):
    # Without a compiler: each operation of a shape is compiled once for all cases.
    with jax.disable_jit():
        check(case)
