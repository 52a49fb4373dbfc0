"""Models that shrink: what is found in them, what they become, and the table."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import rmda_jax as rj
from examples.poster.models import NETWORKS
from examples.shrink import __main__ as command, cases
from examples.shrink.models import LanguageModel, VisionTransformer
from examples.shrink.training import train

pytestmark = pytest.mark.costly

IMAGES = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
DIGITS = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
TOKENS = jax.ShapeDtypeStruct((2, 6), jnp.int32)


def couplings_of(make, x):
    fn, params = cases.function_of(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))))
    return rj.shrink.trace(fn, params, x)


def transformer_units(hidden):
    for i in range(2):
        yield f"block{i}/mlp/down/kernel", 0, hidden
        yield f"block{i}/attention/out", 0, 4  # heads
        yield f"block{i}/attention/out", 1, 16  # dimensions of their values


def test_all_units_of_the_vision_transformer_are_found():
    couplings = couplings_of(VisionTransformer, DIGITS)
    expected = [
        *transformer_units(128),
        *((f"block{i}/attention/query", 2, 16) for i in range(2)),
    ]
    for leaf, axis, size in expected:
        (units,) = couplings.find(leaf, axis)
        assert (units.size, units.frozen) == (size, set())
    assert len(couplings.free) == len(expected)
    (stream,) = couplings.find("patches/kernel", 3)
    assert stream.frozen == {"reduce_sum"}  # of the layer normalization


def test_all_units_of_the_language_model_are_found():
    couplings = couplings_of(lambda rngs: LanguageModel(96, rngs=rngs), TOKENS)
    expected = list(transformer_units(256))
    for leaf, axis, size in expected:
        (units,) = couplings.find(leaf, axis)
        assert (units.size, units.frozen) == (size, set())
    assert len(couplings.free) == len(expected)
    (pairs,) = couplings.find("block0/attention/query", 2)
    assert pairs.frozen == {"iota"}  # each pair is turned at its own rate


@pytest.mark.parametrize(("network", "n_sets"), [("vgg19", 16), ("resnet50", 37)])
def test_all_units_of_the_convolutional_networks_are_found(network, n_sets):
    # ResNet-50: two within each of 16 blocks, the stem, and four residual streams.
    couplings = couplings_of(NETWORKS[network], IMAGES)
    assert len(couplings.free) == n_sets
    reasons = set().union(*(units.frozen for units in couplings.units))
    assert reasons == {"an input", "an output", "the window of a convolution"}


def layers(rng, *sizes):
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {
        f"dense{i}": {"kernel": draw(n, m), "bias": draw(m)}
        for i, (n, m) in enumerate(itertools.pairwise(sizes))
    }


def test_zeros_are_imposed_on_what_reads_units():
    make = lambda: NETWORKS["lenet5_small"](rngs=nnx.Rngs(0))
    fn, params = cases.function_of(nnx.eval_shape(make))
    params = jax.tree.map(lambda x: np.ones(x.shape), params)
    x = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
    params = cases.imposed(fn, params, x, share=0.5)
    reads = params["dense1"]["kernel"][...].reshape(25, 16, 120)  # pixels, channels
    assert (reads == 0).all((0, 2)).sum() == 8
    kernel = params["dense3"]["kernel"][...]
    assert (kernel == 0).all(1).sum() == 42
    assert jnp.count_nonzero(kernel) == 42 * 10


def test_the_command_prints_and_saves_what_became_of_a_model(
    tmp_path, monkeypatch, capsys
):
    x = jnp.ones((3, 2, 2))
    params = layers(np.random.default_rng(0), 4, 6, 3)
    params = cases.imposed(cases.mlp, params, x, share=0.5)
    score = lambda fn, params: f"{fn(params, x).sum():.3f}"
    case = cases.Case("tiny", "imposed", cases.mlp, params, x, score)
    monkeypatch.setitem(command.CASES, "vit", lambda *_: case)
    results = tmp_path / "results.jsonl"
    results.write_text('{"model": "vit"}\n')  # of an earlier run
    command.main(["--models", "vit", "--repeats", "2", "--results", str(results)])
    (found,) = map(json.loads, results.read_text().splitlines())
    assert found["units"] == [6, 3]
    n, small_n = found["parameters"]
    assert (n, small_n) == (6 * (4 + 1 + 3) + 3, 3 * (4 + 1 + 3) + 3)
    before, after = found["scores"]
    assert before == after
    assert found["difference"] <= 1e-6 * found["scale"]
    *_, row = capsys.readouterr().out.splitlines()
    assert row == command.row(found)
    assert row.startswith(f"| tiny | imposed | {before} | 6 → 3 | - | 51 → 27 |")


def test_a_column_that_no_row_has_is_left_out():
    rows = [json.loads(line) for line in command.KEPT.read_text().splitlines()]
    rows = [{**found, "fastest": []} for found in rows[:2]]
    head, _, *without = command.table(rows).splitlines()
    assert {line.count("|") for line in (head, *without)} == {len(command.COLUMNS)}
    rows[0]["fastest"] = [24, 0.5]
    head, _, first, second = command.table(rows).splitlines()
    assert command.FASTEST in head
    assert " | 0.50, of 24 | " in first
    assert {x.count("|") for x in (head, first, second)} == {len(command.COLUMNS) + 1}


def test_the_command_says_which_file_is_missing(tmp_path):
    file = str(tmp_path / "lenet5")
    with pytest.raises(SystemExit, match=file):
        command.main(["--models", "lenet5", "--params", file, "--results", file])


def test_kernels_of_low_rank_leave_in_factors():
    rng = np.random.default_rng(0)
    params = layers(rng, 4, 9, 3)
    kernel = rng.normal(size=(4, 2)) @ rng.normal(size=(2, 9))
    params["dense0"]["kernel"] = jnp.asarray(kernel, jnp.float32)
    small = cases.factored(params)
    assert small["dense0"]["kernel"].shape == (4 + 9, 2)
    assert small["dense1"]["kernel"] is params["dense1"]["kernel"]  # of full rank
    x = rng.normal(size=(5, 2, 2))
    np.testing.assert_allclose(cases.mlp(small, x), cases.mlp(params, x), 1e-5, 1e-5)


def test_training_makes_what_does_not_matter_zero():
    rules = rj.RegularizerMap([("kernel", rj.group_lasso(group_axes=-2))])

    def batches(rng):
        x = rng.normal(size=(32, 6)).astype(np.float32)
        return x, x[:, :2]

    params = train(
        lambda p, x, y: jnp.mean((x @ p["kernel"] - y) ** 2),
        {"kernel": jnp.ones((6, 2))},
        batches,
        rules,
        learning_rate=0.3,
        strength=0.1,
        steps=100,
    )
    assert rules.support(params)["kernel"].ravel().tolist() == 2 * [True] + 4 * [False]


def test_what_was_measured_kept_its_score():
    rows = [json.loads(line) for line in command.KEPT.read_text().splitlines()]
    assert [row["model"] for row in rows] == list(command.CASES)
    for row in rows:
        assert len(set(row["scores"])) <= 1
        assert row["parameters"][1] < row["parameters"][0]
        assert row["difference"] <= 1e-5 * row["scale"]
        assert row["model"] not in ("vit", "lm") or row["frozen"] == [
            [64, "reduce_sum"]
        ]
