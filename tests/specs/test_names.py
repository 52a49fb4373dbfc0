"""One leaf, one name, whatever framework holds it."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import rmda_jax as rj
from rmda_jax import shrink
from rmda_jax.specs._names import is_placeholder, leaf_names

X = np.ones((1, 4), np.float32)  # of NumPy: nothing is compiled on import


class NNXNet(nnx.Module):
    def __init__(self):
        layers = [nnx.Linear(4, 3, rngs=nnx.Rngs(0))]
        # From Flax 0.12 on a module holds lists as nnx.List.
        self.layers = nnx.List(layers) if hasattr(nnx, "List") else layers


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        # A boxed parameter: the axis names of a mesh, kept beside the array.
        init = nn.with_partitioning(nn.initializers.ones, (None, "x"))
        return nn.Dense(3, kernel_init=init, name="dense")(x)


def haiku_params():
    net = hk.transform(lambda x: hk.nets.MLP([3])(x))
    return net.init(jax.random.key(0), X)


def haiku_clash():
    """Return params of a layer made in `__init__` and of one made in `__call__`."""

    class Block(hk.Module):
        def __init__(self):
            super().__init__("block")
            self.linear = hk.Linear(4)

        def __call__(self, x):
            return hk.Linear(4)(self.linear(x))

    return hk.transform(lambda x: Block()(x)).init(jax.random.key(0), X)


def nnx_state():
    return nnx.state(NNXNet(), nnx.Param)


def linen_params():
    return LinenNet().init(jax.random.key(0), X)


def equinox_params():
    net = eqx.nn.MLP(4, 3, 2, 1, key=jax.random.key(0))
    return eqx.filter(net, eqx.is_array)


# Trees are made when a test asks for them: most runs ask for few.
TREES = {
    "dict": (lambda: {"conv": {"kernel": X}, "b": X}, ["b", "conv/kernel"]),
    "list": (lambda: [{"w": X}, (X, X)], ["0/w", "1/0", "1/1"]),
    "array": (lambda: X, [""]),
    "nnx": (nnx_state, ["layers/0/bias", "layers/0/kernel"]),
    "nnx as update sees it": (
        lambda: nnx.to_pure_dict(nnx_state()),
        ["layers/0/bias", "layers/0/kernel"],
    ),
    "linen": (linen_params, ["dense/bias", "dense/kernel"]),
    "haiku": (haiku_params, ["mlp/linear_0/b", "mlp/linear_0/w"]),
    "equinox": (
        equinox_params,
        ["layers/0/weight", "layers/0/bias", "layers/1/weight", "layers/1/bias"],
    ),
    "nnx variables outside a state": (
        lambda: [nnx.Param(X), {"w": nnx.Param(X)}],
        ["0", "1/w"],
    ),
    "a leaf called value": (
        lambda: {"attention": {"value": X}},
        ["attention/value"],
    ),
    "a layer called params": (lambda: {"a": {"params": {"w": X}}}, ["a/params/w"]),
}


@pytest.mark.parametrize("case", TREES)
def test_leaf_names(case):
    tree, expected = TREES[case]
    assert leaf_names(tree()) == expected


@pytest.mark.parametrize("empty", [{}, [], (), None, {"a": {}, "b": [None]}])
def test_empty_trees_are_no_placeholders(empty):
    assert not is_placeholder(empty)


def test_placeholders_of_optax_are_recognised():
    assert is_placeholder({"a": optax.MaskedNode()})
    seen = []
    tx = optax.GradientTransformation(
        lambda params: (seen.append(params), params)[1], lambda u, s, p=None: (u, s)
    )
    state = tx.init({"w": X})
    optax.tree.map_params(tx, lambda v: v, state)
    assert is_placeholder(seen[-1])
    assert not jax.tree.leaves(seen[-1])


CLASH = {"a": {"b": X}, "a/b": X}
CLASHES = {
    "haiku": (
        haiku_clash,
        "block/linear/b",
        ["['block/linear']['b']", "['block/~/linear']['b']"],
    ),
    "a slash": (lambda: CLASH, "a/b", ["['a']['b']", "['a/b']"]),
    "a leading params": (
        lambda: {"params": {"w": X}, "w": X},
        "w",
        ["['params']['w']", "['w']"],
    ),
}


@pytest.mark.parametrize("case", CLASHES)
def test_two_leaves_of_one_name_are_an_error(case):
    tree, name, paths = CLASHES[case]
    with pytest.raises(ValueError, match=f"have the same name '{name}'") as caught:
        leaf_names(tree())
    assert " and ".join(paths) in str(caught.value)
    assert "Rename one of the keys" in str(caught.value)


def flat(params, x):
    return sum(jnp.tanh(x * w).sum() for w in jax.tree.leaves(params))


UNIQUE = {"a": {"b": X}, "c": X}
SPECS = {
    "map": rj.RegularizerMap([("*", rj.l1())]),
    "one": rj.l1(),
    "prefix": {"a": rj.l1(), "a/b": None},
}
USERS = {
    **{
        f"init by {name}": lambda path, s=s: rj.rmda(0.1, s, 0.1).init(CLASH)
        for name, s in SPECS.items()
    },
    "resolve": lambda path: SPECS["map"].resolve(CLASH),
    "prox": lambda path: SPECS["map"].prox(CLASH, 0.1),
    "report of a map": lambda path: SPECS["map"].report(CLASH),
    "ramda": lambda path: rj.ramda(0.1, rj.l1(), 0.1).init(CLASH),
    "proxsgd": lambda path: rj.proxsgd(0.1, rj.l1(), 0.1).init(CLASH),
    "proxsgd_adaptive": lambda path: rj.proxsgd_adaptive(0.1, rj.l1(), 0.1).init(CLASH),
    "proxgen": lambda path: rj.proxgen(0.1, rj.l1(), 0.1).init(CLASH),
    "proxssi": lambda path: rj.proxssi(0.1, rj.l1(), 0.1).init(CLASH),
    "rigl": lambda path: rj.rigl(optax.sgd(0.1), 0.5, grow=None).init(CLASH),
    "sparsity": lambda path: rj.metrics.sparsity(CLASH, rj.l1()),
    "trace": lambda path: shrink.trace(flat, CLASH, X),
    "plan": lambda path: shrink.plan(flat, CLASH, X),
    "apply": lambda path: shrink.apply(shrink.plan(flat, UNIQUE, X), CLASH),
    "group_rules": lambda path: shrink.group_rules(flat, CLASH, X),
    "report": lambda path: shrink.report(flat, CLASH, CLASH, X, repeats=1),
    "save": lambda path: shrink.save(path / "clash", CLASH),
}


@pytest.mark.parametrize("user", USERS)
def test_who_goes_by_names_turns_down_two_of_one_name(user, tmp_path):
    with pytest.raises(ValueError, match=r"the same name 'a/b': \['a'\]\['b'\] and "):
        USERS[user](tmp_path)
