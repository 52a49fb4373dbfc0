"""Ask for a size, train, shrink, and compare: are budgets kept?

Four models, three kinds of budget, four methods, five sizes: 240 short runs, the sizes
side by side under `jax.vmap`. Every run ends with `shrink.apply`; what is reported is
what it left: units of the rules, weights of all leaves, FLOPs by the compiler's count.

    python -m examples.budgets >> examples/budgets/results.jsonl  # goes on if stopped
    python -m examples.budgets report
"""

import collections
import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx

import rmda_jax as rj
from examples._data import load
from examples.demo.network import LeNet
from examples.shrink.cases import function_of, mlp
from examples.shrink.models import LanguageModel, VisionTransformer

RESULTS = Path(__file__).parent / "results.jsonl"
KEPT = (0.2, 0.35, 0.5, 0.65, 0.8)
KINDS = ("groups", "weights", "flops")
# Learning rates of the demo and of the shrink example; no strength is chosen.
METHODS = {"RMDA": 1.0, "RAMDA": 0.1, "ProxSGD": 0.3, "ProxGen": 0.01}
STEPS, BATCH = 240, 32


class Model(NamedTuple):
    """A function of params and inputs, and the data that it learns."""

    fn: Callable[[Any, jax.Array], jax.Array]
    params: Any
    inputs: jax.Array
    labels: jax.Array


def models() -> dict[str, Callable[[], Model]]:
    """Return what makes each model: seed 0, with scikit-learn's digits or a text."""
    data = load("digits").train
    images, labels = jnp.asarray(data.images), jnp.asarray(data.labels)
    rng = nnx.Rngs(0)

    def dense() -> Model:
        layers = [
            nnx.Linear(n, m, rngs=rng) for n, m in ((64, 128), (128, 128), (128, 10))
        ]
        state = lambda x: nnx.to_pure_dict(nnx.state(x))
        params = {f"dense{i}": state(x) for i, x in enumerate(layers)}
        return Model(mlp, params, images, labels)

    def text() -> Model:
        codes = np.frombuffer(Path(__file__).read_bytes(), np.uint8).astype(np.int32)
        windows = np.arange(len(codes) - 33)[::3, None] + np.arange(33)
        tokens = jnp.asarray(np.clip(codes, 32, 126) - 31)[windows]
        fn, params = function_of(LanguageModel(96, rngs=rng))
        return Model(fn, params, tokens[:, :-1], tokens[:, 1:])

    return {
        "MLP": dense,
        "CNN": lambda: Model(*function_of(LeNet(8, rngs=rng)), images, labels),
        "ViT": lambda: Model(*function_of(VisionTransformer(rngs=rng)), images, labels),
        "GPT": text,
    }


def make_optimizer(method: str, rules: Any, budget: Any) -> Any:
    """Return one of METHODS; RMDA and RAMDA cease to average within the last stage."""
    stages = rj.stages(
        METHODS[method],
        milestones=[STEPS * 7 // 10, STEPS * 8 // 10],
        averaging=0.2,
        ramp="sqrt",
    )
    match method:
        case "RMDA":
            return rj.rmda(regularizer=rules, strength=budget, **stages)
        case "RAMDA":
            return rj.ramda(regularizer=rules, strength=budget, **stages)
        case "ProxSGD":
            return rj.proxsgd(stages["learning_rate"], rules, budget)
        case _:
            return rj.proxgen(stages["learning_rate"], rules, budget)


def train(model: Model, method: str, rules: Any, budget: Any) -> Any:
    """Return the params after all steps."""
    tx = make_optimizer(method, rules, budget)

    def loss(params: Any, batch: jax.Array) -> jax.Array:
        logits = model.fn(params, model.inputs[batch])
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, model.labels[batch]
        ).mean()

    def step(carry: Any, batch: jax.Array) -> tuple[Any, jax.Array]:
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    batches = np.random.default_rng(0).integers(0, len(model.labels), (STEPS, BATCH))
    start = model.params, tx.init(model.params)
    (params, _), losses = jax.lax.scan(step, start, jnp.asarray(batches))
    return params, losses[-20:].mean()


def measured(model: Model, rules: Any, params: Any) -> dict[str, Any]:
    """Return what `shrink` leaves of the params, as shares."""
    x = model.inputs[:8]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of dead layers, which are counted here
        plan = rj.shrink.plan(model.fn, params, x)
    small = rj.shrink.apply(plan, params)
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    supports = [np.asarray(s) for s in jax.tree.leaves(rules.support(params))]
    alive = sum(int(s.sum()) for s in supports)
    return {
        "units": alive,
        "of": sum(s.size for s in supports),
        "weights": size(small) / size(params),
        "flops": n_flops(model.fn, small, x) / n_flops(model.fn, params, x),
        "dead": sum(not s.any() for s in supports),
    }


def n_flops(fn: Callable[..., Any], params: Any, x: jax.Array) -> float:
    """Return the compiler's count for one call."""
    return jax.jit(fn).lower(params, x).compile().cost_analysis()["flops"]


@dataclasses.dataclass(frozen=True)
class Config:
    """The arguments of the command line."""

    what: tyro.conf.Positional[Literal["run", "report"]] = "run"
    """Print the missing runs, a line of JSON each, or the table of all."""


def run() -> None:
    """Make the runs that are missing in the results, a line for each."""
    done = {(r["model"], r["kind"], r["method"], r["asked"]) for r in read()}
    for name, make in models().items():
        missing = [
            (kind, method)
            for kind in KINDS
            for method in METHODS
            if any((name, kind, method, kept) not in done for kept in KEPT)
        ]
        if not missing:
            continue
        model = make()
        x = model.inputs[:8]
        rules = rj.shrink.group_rules(model.fn, model.params, x)
        costs = rj.shrink.costs(model.fn, model.params, x, regularizer=rules)
        for kind, method in missing:
            with_costs = {} if kind == "groups" else {"costs": costs}

            def trained(kept: jax.Array) -> Any:
                when = {"start_step": 0, "ramp_steps": STEPS // 2}
                budget = rj.budget(**{kind: kept}, **when, **with_costs)  # noqa: B023
                return train(model, method, rules, budget)  # noqa: B023

            trees, losses = jax.jit(jax.vmap(trained))(jnp.asarray(KEPT))
            for i, kept in enumerate(KEPT):
                if (name, kind, method, kept) in done:
                    continue
                params = jax.tree.map(lambda x: x[i], trees)  # noqa: B023
                row = {"model": name, "kind": kind, "method": method, "asked": kept}
                row |= measured(model, rules, params) | {"loss": float(losses[i])}
                print(json.dumps(row), flush=True)


def read() -> list[dict[str, Any]]:
    """Return the results, a dict for each run."""
    if not RESULTS.exists():
        return []
    return [json.loads(line) for line in RESULTS.read_text().splitlines()]


def errors(rows: list[dict[str, Any]]) -> dict[tuple[str, str], list[float]]:
    """Return by model and kind how far the runs are off: units, or points of share."""
    found: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    for row in rows:
        if row["kind"] == "groups":
            off = abs(row["units"] - round(row["asked"] * row["of"]))
        else:
            off = 100 * abs(row[row["kind"]] - row["asked"])
        found[row["model"], row["kind"]].append(off)
    return found


def largest_unit(name: str, kind: str) -> str:
    """Return what the most expensive unit of a model costs: no budget is kept finer."""
    if kind == "groups":
        return "1 unit"
    model = models()[name]()
    x = model.inputs[:8]
    rules = rj.shrink.group_rules(model.fn, model.params, x)
    costs = rj.shrink.costs(model.fn, model.params, x, regularizer=rules)
    all_alive = np.array([group.size for group in costs.units])
    one_less = all_alive - np.eye(len(all_alive), dtype=int)
    kept = [float(costs.share(kind, jnp.asarray(counts))) for counts in one_less]
    return f"{100 * (1 - min(kept)):.2f} points"


def report() -> None:
    """Print the table of the errors."""
    rows = read()
    print("| model | kind | runs | largest error | mean error | largest unit |")
    print("|---|---|---|---|---|---|")
    for (model, kind), off in errors(rows).items():
        unit = "units" if kind == "groups" else "points"
        numbers = f"{max(off):.2f} {unit} | {np.mean(off):.2f}"
        cells = f"{len(off)} | {numbers} | {largest_unit(model, kind)}"
        print(f"| {model} | {kind} | {cells} |")
    print(
        f"\n{len(rows)} runs, {sum(row['dead'] > 0 for row in rows)} with a dead layer"
    )


if __name__ == "__main__":
    {"run": run, "report": report}[tyro.cli(Config, description=__doc__).what]()
