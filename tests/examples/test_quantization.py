"""The quantization example: what is kept is what the rule says, and levels are few."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.quantization import __main__ as quantization

FOLDER = Path(quantization.__file__).parent


@pytest.fixture(scope="module")
def rows():
    lines = (FOLDER / "results.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_kept_settings_are_the_best_on_validation_data(rows):
    assert [row["method"] for row in rows] == [*quantization.METHODS]
    for row in rows:
        tried = row["validation"]
        assert len(tried) == len(quantization.RATES) * len(quantization.SCHEDULES)
        chosen = tried[f"{row['learning_rate']:g}, {row['schedule']}"]
        assert chosen == max(tried.values())
        assert len(row["test"]) == quantization.Config().seeds


def test_the_verdict_is_of_the_differences_of_one_seed():
    rows = [
        {"levels": "three", "method": "RMDA", "test": [90.0, 80.0, 70.0]},
        {"levels": "three", "method": "PARQ", "test": [91.0, 82.0, 73.0]},
    ]
    found = quantization.verdict(rows, "three", "RMDA", "PARQ")
    assert found == "three: RMDA - PARQ: -2.00 ± 0.58; lower by more than two errors"
    found = quantization.verdict(rows, "three", "PARQ", "RMDA")
    assert found == "three: PARQ - RMDA: +2.00 ± 0.58"


@pytest.mark.parametrize("is_hard", [False, True])
def test_the_map_of_rmda_becomes_hard_when_it_is_said(is_hard):
    n, levels = 20, {k: jnp.array([-0.3, 0.0, 0.3]) for k in quantization.KERNELS}
    setting = quantization.Setting(0.1, False, is_hard)
    tx = quantization.make_optimizer("RMDA", setting, levels, n)
    params = quantization.begin(jax.random.key(0))
    state, update = tx.init(params), jax.jit(tx.update)
    for count in range(n):
        _, state = update(jax.tree.map(jnp.zeros_like, params), state, params)
        step = float(state.weight_sum * state.strength)
        assert (step >= 1) == (is_hard or count >= quantization.HARD_FROM * n)


def test_quantized_weights_have_few_levels():
    levels = quantization.estimate(
        {k: jnp.linspace(-1, 2, 50) for k in ("in", "out")}, 2
    )
    params = quantization.begin(jax.random.key(0))
    found = quantization.rules(levels).prox(params, 1.0)
    for k in quantization.KERNELS:
        assert set(np.unique(found[k]["kernel"])) <= set(np.asarray(levels[k]).tolist())
