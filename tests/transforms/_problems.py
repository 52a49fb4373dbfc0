"""Small random problems for whole runs: nets, data, rules and lengths, by number.

A third each are MLPs, CNNs and transformers, on some classes of the digits or on
clusters of Gaussian data. Query and key of the transformers are not regularized: on
data as simple as these, attention is of no use.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import rmda_jax as rj

RATES = {"rmda": 0.5, "ramda": 0.03, "proxsgd": 0.2, "proxgen": 0.005}


class Problem(NamedTuple):
    """What is trained, on what, and for how long."""

    kind: str
    apply: Callable[[Any, Any], jax.Array]
    params: Any
    rules: rj.RegularizerMap
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    n_classes: int
    batch: int
    n_steps: int
    rate_factor: float

    def loss(self, params, x, y):
        logits = self.apply(params, x)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean()

    def recipe(self, method: str) -> dict[str, Any]:
        """Return learning rate, averaging and restarts for a method."""
        rate = RATES[method] * self.rate_factor
        if method in ("rmda", "ramda"):
            milestones = [self.n_steps // 2, 3 * self.n_steps // 4]
            return rj.stages(rate, milestones, averaging=0.1)
        return {"learning_rate": optax.cosine_decay_schedule(rate, self.n_steps)}

    def batches(self, n: int):
        """Return some batches of the training data."""
        rng, (x, y) = np.random.default_rng(0), self.train
        picks = [rng.integers(0, len(y), self.batch) for _ in range(n)]
        return [(x[i], y[i]) for i in picks]


def problem(number: int) -> Problem:
    """Return the problem of this number."""
    rng = np.random.default_rng(number)
    name, net = list(NETS.items())[number % len(NETS)]
    train, test, n_classes = _data(rng)
    params, apply, last = net(rng, n_classes)
    groups = str(rng.choice(["inputs", "outputs", "entries"], p=[0.5, 0.35, 0.15]))
    acting = {
        "inputs": rj.group_lasso(-2),
        "outputs": rj.group_lasso(-1),
        "entries": rj.l1(),
    }[groups]
    free = [f"{last}/*"] if groups == "outputs" else []
    free += ["*/query/*", "*/key/*"] if name == "transformer" else []
    rules = rj.RegularizerMap([*((x, None) for x in free), ("*/kernel", acting)])
    return Problem(
        kind=f"{name}, {groups}",
        apply=apply,
        params=params,
        rules=rules,
        train=train,
        test=test,
        n_classes=n_classes,
        batch=int(rng.choice([16, 32, 64])),
        n_steps=int(rng.choice([400, 800, 1600])),
        rate_factor=float(rng.choice([0.5, 1.0, 2.0])),
    )


def run(problem: Problem, method: str, strength: Any):
    """Train; return accuracy, the share of zero units, and how many leaves are zero."""
    tx = getattr(rj, method)(
        regularizer=problem.rules, strength=strength, **problem.recipe(method)
    )
    x, y = map(jnp.asarray, problem.train)

    def step(carry, key):
        params, state = carry
        i = jax.random.randint(key, (problem.batch,), 0, len(y))
        grads = jax.grad(problem.loss)(params, x[i], y[i])
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(0), problem.n_steps)
    start = problem.params, tx.init(problem.params)
    (params, _), _ = jax.lax.scan(step, start, keys)
    images, labels = problem.test
    accuracy = jnp.mean(problem.apply(params, images).argmax(-1) == labels)
    supports = jax.tree.leaves(problem.rules.support(params))
    alive = jnp.stack([support.sum() for support in supports])
    n_units = sum(support.size for support in supports)
    return accuracy, 1 - alive.sum() / n_units, jnp.sum(alive == 0)


def _data(rng):
    if rng.random() < 0.6:
        x, y = load_digits(return_X_y=True)
        n_classes = int(rng.integers(3, 11))
        classes = np.sort(rng.permutation(10)[:n_classes])
        x, y = x[np.isin(y, classes)], y[np.isin(y, classes)]
        x, y = x - x.mean(), np.searchsorted(classes, y)
    else:
        n_classes, n_useful = int(rng.integers(2, 8)), int(rng.integers(10, 50))
        centers = np.zeros((2 * n_classes, 64))
        centers[:, :n_useful] = rng.standard_normal((2 * n_classes, n_useful))
        cluster = rng.integers(0, 2 * n_classes, 1500)
        noise = rng.uniform(0.5, 1.2) * rng.standard_normal((1500, 64))
        x, y = centers[cluster] + noise, cluster % n_classes
    order = rng.permutation(len(y))
    x, y = (x / x.std())[order].astype(np.float32), y[order].astype(np.int32)
    n = len(y) * 4 // 5
    return (x[:n], y[:n]), (x[n:], y[n:]), n_classes


def _layer(rng, *shape, gain=2.0):
    deviation = np.sqrt(gain / np.prod(shape[:-1]))
    kernel = deviation * rng.standard_normal(shape)
    return {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.zeros(shape[-1])}


def _linear(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def _mlp(rng, n_classes):
    depth = int(rng.integers(1, 4))
    hidden = [int(2 ** rng.uniform(4, 6)) for _ in range(depth)]
    sizes = [64, *hidden, n_classes]
    params = {
        f"layer{i}": _layer(rng, sizes[i], sizes[i + 1]) for i in range(depth + 1)
    }

    def apply(params, x):
        for i in range(depth):
            x = jax.nn.relu(_linear(params[f"layer{i}"], x))
        return _linear(params[f"layer{depth}"], x)

    return params, apply, f"layer{depth}"


def _cnn(rng, n_classes):
    first, second = int(2 ** rng.uniform(2.6, 4)), int(2 ** rng.uniform(3, 4.6))
    params = {
        "conv0": _layer(rng, 3, 3, 1, first),
        "conv1": _layer(rng, 3, 3, first, second),
        "head": _layer(rng, 4 * second, n_classes),
    }

    def conv(layer, x):
        """Convolve at every second place; a product, which vmap keeps fast."""
        x, n = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))), x.shape[1]
        shifts = [(i, j) for i in range(3) for j in range(3)]
        patches = [x[:, i : i + n : 2, j : j + n : 2] for i, j in shifts]
        kernel = layer["kernel"].reshape(-1, layer["kernel"].shape[-1])
        return jnp.concatenate(patches, axis=-1) @ kernel + layer["bias"]

    def apply(params, x):
        x = jax.nn.relu(conv(params["conv0"], x.reshape(-1, 8, 8, 1)))
        x = jax.nn.relu(conv(params["conv1"], x))
        return _linear(params["head"], x.reshape(x.shape[0], -1))

    return params, apply, "head"


def _transformer(rng, n_classes):
    width, hidden = int(rng.choice([12, 16, 24])), int(rng.choice([16, 24, 32]))
    params: dict[str, Any] = {
        "embed": _layer(rng, 8, width, gain=1.0),
        "place": jnp.asarray(0.3 * rng.standard_normal((8, width)), jnp.float32),
        "head": _layer(rng, width, n_classes, gain=1.0),
    }
    n_blocks = int(rng.integers(1, 3))
    for i in range(n_blocks):
        names = ("query", "key", "value", "out")
        block = {name: _layer(rng, width, width, gain=1.0) for name in names}
        block["up"] = _layer(rng, width, hidden)
        block["down"] = _layer(rng, hidden, width, gain=1.0)
        params[f"block{i}"] = block

    def norm(x):
        x = x - x.mean(-1, keepdims=True)
        return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5)

    def apply(params, x):
        x = _linear(params["embed"], x.reshape(-1, 8, 8)) + params["place"]
        for i in range(n_blocks):
            p, z = params[f"block{i}"], norm(x)
            query, key = _linear(p["query"], z), _linear(p["key"], z)
            scores = jnp.einsum("nid,njd->nij", query, key) / np.sqrt(width)
            x += _linear(p["out"], jax.nn.softmax(scores) @ _linear(p["value"], z))
            x += _linear(p["down"], jax.nn.relu(_linear(p["up"], norm(x))))
        return _linear(params["head"], norm(x).mean(1))

    return params, apply, "head"


NETS = {"mlp": _mlp, "cnn": _cnn, "transformer": _transformer}
