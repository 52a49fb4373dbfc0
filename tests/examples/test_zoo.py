"""The zoo: the rule of the zeros, what is measured, and the table of the page."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.zoo import __main__ as command, equinox_layers, flax_layers, haiku_layers
from examples.zoo.measure import measured, of_function, zeroed

LAYERS = flax_layers.MODELS | haiku_layers.MODELS | equinox_layers.MODELS
PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"


def two_heads(p, x):
    h = jnp.tanh(x @ p["in"]).reshape(len(x), 2, 2)
    return h.reshape(len(x), 4) @ p["out"]


def mlp(p, x):
    return jnp.tanh(x @ p["in"]) @ p["out"]


def drawn():
    rng = np.random.default_rng(0)
    shapes = {"in": (3, 4), "out": (4, 2)}
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}


X = jnp.ones((5, 3))


def test_half_of_the_units_of_a_set_have_no_weight():
    params, chosen = zeroed(mlp, drawn(), X)
    (units,) = chosen.values()
    assert units.sum() == 2
    assert (params["in"] == 0).all(0).tolist() == units.tolist()
    assert (params["out"] == 0).all(1).tolist() == units.tolist()
    assert jnp.count_nonzero(params["in"]) == 3 * 2


def test_a_function_is_made_smaller_by_itself_and_by_program():
    found = measured(of_function(mlp, drawn(), X))
    assert (found["free"], found["zeros"], found["parameters"]) == (4, 2, 20)
    for how in ("itself", "program"):
        assert found[how]["removed"] == 2
        assert found[how]["difference"] <= 1e-6 * found[how]["scale"]
    assert found["program"]["parameters"] == 10
    assert found["program"]["stay"] == {}
    assert found["program"]["frozen"] == {"an input": 3, "an output": 2}


def test_what_a_model_refuses_is_reported():
    found = measured(of_function(two_heads, drawn(), X))
    assert "cannot reshape" in found["itself"]["error"]
    assert found["program"]["removed"] == 2


def test_a_module_is_made_smaller():
    found = measured(flax_layers.MODELS["nnx_mlp"]())
    assert found["itself"]["removed"] == found["program"]["removed"] == 6


def test_what_is_missing_is_named(monkeypatch):
    def broken():
        raise ImportError("no such module")

    entry = command.Entry("GCN", "NNX", "no-such-package", broken)
    found = command.made(entry)
    assert found["missing"] == "not installed"
    assert command.row(found).endswith("| not installed |")
    monkeypatch.setattr(command, "_version", lambda _: "1.0")
    assert command.made(entry)["missing"] == "ImportError: no such module"


def test_a_row_says_what_stays_and_what_is_frozen_inside_of_the_model():
    found = {
        "title": "T",
        "framework": "NNX",
        "package": "p",
        "version": "1",
        "free": 8,
        "zeros": 4,
        "parameters": 1000,
        "itself": {"error": "ValueError: no"},
        "program": {
            "removed": 3,
            "parameters": 900,
            "difference": 1e-7,
            "scale": 2.0,
            "stay": {"2 not known to sort": 1},
            "frozen": {"an input": 3, "an index, an output": 2, "scan": 5},
        },
    }
    assert command.row(found) == (
        "| T | NNX | p 1 | 8 | 4 | refuses | 3 | 1,000 → 900 | 1e-07 of 2 | "
        "1: 2 not known to sort; 5 frozen: scan |"
    )


def test_the_command_keeps_the_rows_of_models_that_are_not_run(
    tmp_path, monkeypatch, capsys
):
    entries = {
        name: command.Entry(
            "MLP", "functions", "jax", lambda: of_function(mlp, drawn(), X)
        )
        for name in ("nnx_mlp", "kan")
    }
    monkeypatch.setattr(command, "ENTRIES", entries)
    path = tmp_path / "results.jsonl"
    command.main(["--models", "nnx_mlp", "--results", str(path)])
    command.main(["--models", "kan", "--results", str(path)])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["model"] for row in rows] == ["nnx_mlp", "kan"]
    *_, first, second = capsys.readouterr().out.splitlines()
    version = jax.__version__
    assert first == second
    assert first.startswith(
        f"| MLP | functions | jax {version} | 4 | 2 | 2 | 2 | 20 → 10 |"
    )
    assert first.endswith("| - |")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long) for name in LAYERS]
)
def test_all_zeros_of_plain_layers_go_by_program(name):
    found = measured(LAYERS[name]())
    assert "error" not in found["program"]
    assert found["program"]["removed"] >= found["zeros"]
    assert found["program"]["difference"] <= 1e-4 * found["program"]["scale"]


def kept():
    lines = command.KEPT.read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_page_shows_what_was_measured():
    assert command.table(kept()) in PAGE.read_text("utf-8")


def test_what_was_measured_is_of_all_models_and_equal():
    rows = kept()
    assert [row["model"] for row in rows] == list(command.ENTRIES)
    for row in rows:
        for how in ("itself", "program"):
            found = row.get(how, {"error": "missing"})
            if "error" not in found:
                assert found["difference"] <= 1e-4 * found["scale"], row["model"]
