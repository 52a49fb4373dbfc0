"""Does a budget cost accuracy, compared with the best of a grid of fixed strengths?

A newcomer's two networks, a Flax CNN and an Equinox CNN, learn scikit-learn's digits.
With a budget each is trained once for every size asked and seed. The rival is tuned by
hand, as one would without budgets: RMDA at eight fixed strengths, a factor of sqrt(2)
apart, for as many epochs. Of these the best for a size is that with the highest mean
accuracy on validation data among those that end, in the mean, no larger than asked.

Compared is the accuracy on the test set, seed by seed: initial params and batches of a
seed are the same. The rule, stated before: a budget is as good if the 95 % interval of
the mean difference (Student's t, five seeds) does not lie below 0.

    python -m examples.budgets.accuracy >> examples/budgets/accuracy.jsonl
    python -m examples.budgets.accuracy report
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

import rmda_jax as rj
from examples._data import Split, load
from examples.budgets.__main__ import Config

RESULTS = Path(__file__).parent / "accuracy.jsonl"
SEEDS = tuple(range(5))
ASKED = (0.15, 0.25, 0.4)  # of the units; the newcomer wanted a quarter
STRENGTHS = tuple(1.2e-3 * 2 ** (i / 2) for i in range(8))
RATE, EPOCHS, BATCH = 0.3, 40, 64
T_FOUR = 2.776  # the quantile of Student's t with four degrees of freedom, at 0.975


class Network(NamedTuple):
    """A function of params and images, and what makes the params of a seed."""

    fn: Callable[[Any, jax.Array], jax.Array]
    init: Callable[[int], Any]


class FlaxCNN(nnx.Module):
    """Two convolutions and two dense layers, as in many a tutorial."""

    def __init__(self, rngs: nnx.Rngs):
        """Make the layers."""
        self.conv1 = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), rngs=rngs)
        self.dense1 = nnx.Linear(32 * 2 * 2, 64, rngs=rngs)
        self.dense2 = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of images (n, 8, 8, 1)."""
        x = nnx.max_pool(nnx.relu(self.conv1(x)), (2, 2), strides=(2, 2))
        x = nnx.max_pool(nnx.relu(self.conv2(x)), (2, 2), strides=(2, 2))
        x = nnx.relu(self.dense1(x.reshape(len(x), -1)))
        return self.dense2(x)


class EquinoxCNN(eqx.Module):
    """The same in Equinox: channels first, one image at a time."""

    layers: list

    def __init__(self, key: jax.Array):
        """Make the layers."""
        keys = jax.random.split(key, 4)
        self.layers = [
            eqx.nn.Conv2d(1, 16, 3, padding=1, key=keys[0]),
            eqx.nn.Conv2d(16, 32, 3, padding=1, key=keys[1]),
            eqx.nn.Linear(32 * 2 * 2, 64, key=keys[2]),
            eqx.nn.Linear(64, 10, key=keys[3]),
        ]

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of an image (1, 8, 8)."""
        pool = eqx.nn.MaxPool2d(2, 2)
        for conv in self.layers[:2]:
            x = pool(jax.nn.relu(conv(x)))
        x = jax.nn.relu(self.layers[2](x.ravel()))
        return self.layers[3](x)


def networks() -> dict[str, Network]:
    """Return the two networks."""
    graphdef = nnx.split(FlaxCNN(nnx.Rngs(0)))[0]
    flax = Network(
        lambda params, x: nnx.merge(graphdef, params)(x),
        lambda seed: nnx.split(FlaxCNN(nnx.Rngs(seed)))[1],
    )
    static = eqx.partition(EquinoxCNN(jax.random.key(0)), eqx.is_array)[1]

    def apply(params: Any, x: jax.Array) -> jax.Array:
        model = eqx.combine(params, static)
        return jax.vmap(model)(jnp.moveaxis(x, -1, 1))

    equinox = Network(
        apply,
        lambda seed: eqx.filter(EquinoxCNN(jax.random.key(seed)), eqx.is_array),
    )
    return {"Flax": flax, "Equinox": equinox}


def trained(
    network: Network, rules: Any, strength: Any, params: Any, seed: jax.Array
) -> Any:
    """Return the structured params after all epochs; all arguments may be traced."""
    train = load("digits").train
    images, labels = jnp.asarray(train.images), jnp.asarray(train.labels)
    per_epoch = len(labels) // BATCH
    stages = rj.stages(
        RATE,
        milestones=[EPOCHS * 7 // 10, EPOCHS * 8 // 10],
        averaging=0.1,
        ramp="sqrt",
        steps_per_epoch=per_epoch,
    )
    tx = rj.rmda(regularizer=rules, strength=strength, **stages)

    def loss(params: Any, batch: jax.Array) -> jax.Array:
        logits = network.fn(params, images[batch])
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, labels[batch]
        ).mean()

    def step(carry: Any, batch: jax.Array) -> tuple[Any, None]:
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params, batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    def epoch(carry: Any, key: jax.Array) -> tuple[Any, None]:
        order = jax.random.permutation(key, len(labels))[: per_epoch * BATCH]
        return jax.lax.scan(step, carry, order.reshape(per_epoch, BATCH))

    keys = jax.random.split(jax.random.key(seed), EPOCHS)
    (params, state), _ = jax.lax.scan(epoch, (params, tx.init(params)), keys)
    return rj.structured_params(state, rules, params)


def accuracy(network: Network, params: Any, split: Split) -> float:
    """Return the share of images that are classified right."""
    logits = network.fn(params, jnp.asarray(split.images))
    return float((jnp.argmax(logits, -1) == jnp.asarray(split.labels)).mean())


def runs(name: str, network: Network, seed: int) -> Iterator[dict[str, Any]]:
    """Yield a row for the dense run, every fixed strength and every budget."""
    params, data = network.init(seed), load("digits")
    rules = rj.shrink.group_rules(network.fn, params, jnp.zeros((2, 8, 8, 1)))
    n_units = sum(s.size for s in jax.tree.leaves(rules.support(params)))

    def row(kind: str, value: float, found: Any) -> dict[str, Any]:
        support = [np.asarray(s) for s in jax.tree.leaves(rules.support(found))]
        return {
            "network": name,
            "seed": seed,
            kind: value,
            "units": sum(int(s.sum()) for s in support),
            "of": n_units,
            "dead": sum(not s.any() for s in support),
            "validation": accuracy(network, found, data.validation),
            "test": accuracy(network, found, data.test),
        }

    kinds = {
        "strength": ((0.0, *STRENGTHS), lambda strength: strength),
        "asked": (
            ASKED,
            lambda kept: rj.budget(groups=kept, ramp_steps=EPOCHS * 9),
        ),
    }
    for kind, (values, make) in kinds.items():
        run = lambda x: trained(network, rules, make(x), params, jnp.asarray(seed))  # noqa: B023
        trees = jax.jit(jax.vmap(run))(jnp.asarray(values))
        for i, value in enumerate(values):
            yield row(kind, value, jax.tree.map(lambda x: x[i], trees))  # noqa: B023


def run() -> None:
    """Make the runs that are missing in the results, a line for each."""
    done = {(r["network"], r["seed"]) for r in read() if r.get("asked") == ASKED[-1]}
    for seed in SEEDS:
        for name, network in networks().items():
            if (name, seed) not in done:
                for row in runs(name, network, seed):
                    print(json.dumps(row), flush=True)


def read() -> list[dict[str, Any]]:
    """Return the results, a dict for each run."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def report() -> None:
    """Print, for each network and size, what a budget and the best strength reach."""
    rows = read()
    print(f"{len({row['seed'] for row in rows})} of {len(SEEDS)} seeds")
    columns = "network, asked, budget: units, test, best fixed strength: units, test"
    names = [*columns.split(", "), "difference"]
    print("|".join(["", *names, ""]), "|".join(["", *["---"] * 7, ""]), sep="\n")
    for name in dict.fromkeys(row["network"] for row in rows):
        of_network = [row for row in rows if row["network"] == name]
        fixed = {
            s: [row for row in of_network if row.get("strength") == s]
            for s in STRENGTHS
        }
        for asked in ASKED:
            budget = [row for row in of_network if row.get("asked") == asked]
            best = best_strength(fixed, asked)
            print(_line(name, asked, budget, fixed.get(best, [])))
        dense = [r["test"] for r in of_network if r.get("strength") == 0]
        print(f"| {name} | dense | | {_mean(dense)} | | | |")


def best_strength(fixed: dict[float, list[dict[str, Any]]], asked: float) -> float:
    """Return the strength of the best validation accuracy within a size; or NaN."""
    small = {
        s: np.mean([row["validation"] for row in rows])
        for s, rows in fixed.items()
        if np.mean([row["units"] / row["of"] for row in rows]) <= asked + 0.01
    }
    return max(small, key=lambda s: small[s]) if small else float("nan")


def _line(
    name: str, asked: float, budget: list[dict[str, Any]], best: list[dict[str, Any]]
) -> str:
    units = lambda rows: ", ".join(str(r["units"]) for r in rows)
    test = lambda rows: np.array([r["test"] for r in rows])
    reached = f"{units(budget)} of {budget[0]['of']} | {_mean(test(budget))}"
    if not best:
        return f"| {name} | {asked:.0%} | {reached} | none so small | | |"
    off = 100 * (test(budget) - test(best))
    spread = off.std(ddof=1) if len(off) > 1 else np.nan
    half = T_FOUR * spread / np.sqrt(len(off))
    rival = f"{best[0]['strength']:.1e}: {units(best)} | {_mean(test(best))}"
    difference = f"{off.mean():+.2f} ± {half:.2f} points"
    return f"| {name} | {asked:.0%} | {reached} | {rival} | {difference} |"


def _mean(shares: Any) -> str:
    spread = 100 * np.std(shares, ddof=1) if len(shares) > 1 else np.nan
    return f"{100 * np.mean(shares):.2f} ± {spread:.2f} %"


if __name__ == "__main__":
    {"run": run, "report": report}[tyro.cli(Config, description=__doc__).what]()
