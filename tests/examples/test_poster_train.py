"""Training of several members at once: equal to one at a time, and resumable."""

import dataclasses
import functools
import json
import operator

import jax
import numpy as np
import pytest

import rmda_jax as rj
from examples.poster import driver, logs, runs
from examples.poster.__main__ import main
from examples.poster.driver import Options
from examples.poster.logs import Checkpoints
from examples.poster.models import NETWORKS
from examples.poster.presets import METHODS, preset
from examples.poster.train import Trainer
from tests._daily import these
from tests._optimized import optimized
from tests.examples._poster import N_TRAIN, TinyNet, tiny_data

pytestmark = pytest.mark.costly

TASK = "vgg19/cifar10"
LOOPS = ["vmap", "map", "step"]
BATCH = 16  # two full batches of the training images, and half a one
STRENGTH = 0.01


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Let the presets of VGG19 train a tiny network on a tiny data set."""
    monkeypatch.setitem(NETWORKS, "vgg19", TinyNet)
    monkeypatch.setattr(runs, "load", lambda name, data_dir: tiny_data())
    small = lambda *args: dataclasses.replace(preset(*args), batch_size=BATCH)
    monkeypatch.setattr(driver, "preset", small)


def settings(method="rmda", epochs=4):
    return dataclasses.replace(preset(TASK, method).scaled(epochs), batch_size=BATCH)


def trained(seeds, strengths, epochs=2, **options):
    """Return members after some epochs, with their losses and measures."""
    with optimized():  # steps enlarge the rounding of the sums of a convolution
        trainer = Trainer(settings(), tiny_data(), seeds, strengths, **options)
        members = trainer.init()
        for epoch in range(epochs):
            members, losses = trainer.train_epoch(members, epoch)
        return members, losses, trainer.evaluate(members)


def assert_close(first, second):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), first, second
    )


@pytest.fixture(scope="module")
def together():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "vgg19", TinyNet)
        return trained([0, 1], [STRENGTH, 3 * STRENGTH], loop="vmap")


@pytest.mark.long
@pytest.mark.parametrize("loop", LOOPS)
def test_members_train_as_each_would_alone(loop, together):
    for i, (seed, strength) in enumerate([(0, STRENGTH), (1, 3 * STRENGTH)]):
        alone = trained([seed], [strength], loop=loop)
        assert_close(
            jax.tree.map(operator.itemgetter(slice(i, i + 1)), together), alone
        )


@pytest.mark.long
def test_members_differ_in_seed_and_strength(together):
    members, losses, measures = together
    assert len(set(losses.tolist())) == 2
    kernel = members.params["layer"]["conv"]["kernel"][...]
    assert np.abs(kernel[0] - kernel[1]).max() > 1e-3
    assert set(measures) >= {"accuracy", "groups", "groups_by_size", "weights"}


@pytest.mark.long
def test_an_epoch_has_a_step_for_the_last_partial_batch(together):
    members, _, _ = together
    n_steps = -(-N_TRAIN // BATCH)
    assert n_steps * BATCH > N_TRAIN
    np.testing.assert_array_equal(members.opt_state.count, [2 * n_steps] * 2)


EVERY_DAY = ("rmda", "rigl")


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=() if name in EVERY_DAY else pytest.mark.long)
        for name in METHODS
    ],
)
def test_every_method_trains_and_is_measured(method):
    # One batch, for one program to compile.
    trainer = Trainer(settings(method), tiny_data(BATCH), [0], [1e-4], loop="step")
    members, losses = trainer.train_epoch(trainer.init(), 0)
    measures = trainer.evaluate(members)
    assert np.isfinite(losses).all()
    n_weights = 3 * 4 * 9 + 64 * 10
    if method == "rigl":
        assert measures["weights"] == pytest.approx(0.98, abs=2 / n_weights)
    if method == "dense":
        assert measures["weights"] == measures["groups"] == 0


def test_bfloat16_computes_but_does_not_store():
    trainer = Trainer(settings(), tiny_data(), [0], [0.0], dtype="bfloat16")
    member = jax.tree.map(lambda x: x[0], trainer.init())
    step = functools.partial(trainer.program.step, member, 0.0, trainer.run_keys[0])
    traced, (after, _) = jax.make_jaxpr(step, return_shape=True)(
        np.arange(BATCH), trainer.train_data
    )
    assert "bf16" in str(traced)
    kept = {str(x.dtype) for x in jax.tree.leaves(after)}
    assert kept == {"float32", "int32"}


class Killed(Exception):
    """In the place of a power cut."""


@pytest.mark.not_daily
@pytest.mark.parametrize("loop", these(["step"], ["vmap", "step"]))
def test_a_run_resumes_to_the_same_bits(loop, tmp_path, monkeypatch):
    def run(folder):
        options = Options(
            epochs=4, seeds=2, loop=loop, logs=folder, out=folder, checkpoint_every=0
        )
        with optimized():  # without, CI once saw other bits in the loss
            return runs.run(TASK, "rmda", options, strength=STRENGTH)

    whole = run(tmp_path / "whole")

    append = logs.append

    def cut_off(path, line):
        if line.get("epoch") == 3:
            # Epoch 3 reached the log, or half of it, but no checkpoint.
            path.write_text(path.read_text() + '{"epoch":3,"loss":[0.1')
            raise Killed
        append(path, line)

    with monkeypatch.context() as patch:
        patch.setattr(logs, "append", cut_off)
        with pytest.raises(Killed):
            run(tmp_path / "cut")
    resumed = run(tmp_path / "cut")

    without_time = lambda log: [
        {k: v for k, v in line.items() if k != "seconds"}
        for line in logs.read_lines(log)
    ]
    assert without_time(resumed) == without_time(whole)
    assert [line["epoch"] for line in logs.read(whole).epochs] == [1, 2, 3, 4]
    trainer = Trainer(settings(), tiny_data(), [0, 1], [STRENGTH] * 2)
    ends = []
    for log in (whole, resumed):
        folder = log.parent / log.stem
        checkpoints = Checkpoints(folder)
        assert checkpoints.epoch == 4
        ends.append(checkpoints.restore(trainer.init()))
        checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, *ends)


def flat(params, path=()):
    if not isinstance(params, dict):
        return {"/".join(path): params}
    parts = (flat(child, (*path, name)) for name, child in params.items())
    return functools.reduce(operator.or_, parts)


@pytest.mark.not_daily
def test_a_complete_run_is_not_repeated_and_another_not_overwritten(tmp_path):
    options = Options(epochs=4, loop="step", logs=tmp_path, out=tmp_path / "out")
    log = runs.run(TASK, "rmda", options)
    content = log.read_bytes()
    config = json.loads(content.splitlines()[0])
    assert config["strengths"] == [1.5e-4]
    assert config["sources"]["strength"] == "published (RAMDA code)"
    assert config["sources"]["epochs"] == "given"
    saved = tmp_path / "params" / "first.safetensors"
    assert runs.run(TASK, "rmda", options, save=saved) == log
    assert log.read_bytes() == content
    params, widths = rj.shrink.load(saved)
    kernels = [x for name, x in flat(params).items() if name.endswith("kernel")]
    zero = sum((x == 0).sum() for x in kernels) / sum(x.size for x in kernels)
    np.testing.assert_allclose(zero, logs.read(log).epochs[-1]["weights"], 0, 1e-5)
    assert any(name.endswith("mean") for name in widths)  # of a batch normalization
    _ = log.write_bytes(content.replace(b'"batch_size":16', b'"batch_size":17'))
    with pytest.raises(driver.RunError, match=r"has other settings\. Pass --fresh"):
        _ = runs.run(TASK, "rmda", options)


@pytest.mark.not_daily
def test_a_path_is_a_run_for_each_strength_and_seed(tmp_path):
    folders = ["--logs", str(tmp_path), "--out", str(tmp_path / "out")]
    common = ["--epochs", "4", "--seeds", "2", "--loop", "step", *folders]
    main(["path", TASK, "rmda", "--strengths", "0.01", "1.0", *common])
    (log,) = tmp_path.glob("path-*.jsonl")
    config, epochs = logs.read(log)
    assert (config["strengths"], config["seeds"]) == ([0.01, 1.0], [0, 1])
    main(["run", TASK, "rmda", "--strength", "1.0", *common])
    (alone,) = tmp_path.glob("vgg19-*.jsonl")
    assert logs.read(alone).epochs[0]["loss"] == epochs[0]["loss"][2:]


def test_rigl_has_no_path():
    with pytest.raises(driver.RunError, match="rigl cannot train several strengths"):
        _ = runs.path(TASK, "rigl", Options())
