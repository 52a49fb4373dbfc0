"""The training path of ``examples.poster``, cut into contestants."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks._timing import Contestant
from examples.poster import logs
from examples.poster.data import SPECS, Dataset, Split
from examples.poster.images import augment
from examples.poster.presets import Method, preset
from examples.poster.train import Member, Trainer, shuffle

STRENGTH = 1e-4
DATA = {"lenet5": "fashion_mnist", "vgg19": "cifar10", "resnet50": "cifar10"}


@dataclasses.dataclass
class Run:
    """A trainer of one member, and the member; a call trains for an epoch."""

    trainer: Trainer
    members: Member
    epoch: int = 0

    def __call__(self) -> Member:
        """Train for an epoch."""
        self.members, _ = self.trainer.train_epoch(self.members, self.epoch)
        self.epoch += 1
        return self.members

    def member(self) -> Member:
        """Return a copy of the member."""
        return jax.tree.map(lambda x: jnp.copy(x[0]), self.members)


class Steps:
    """Training steps, all on one batch."""

    def __init__(self, run: Run):
        """Begin from the run's member."""
        trainer = run.trainer
        self.member, self.step = run.member(), trainer.program.step
        batch = np.arange(trainer.program.batch_size)
        self.inputs = trainer.strengths[0], trainer.run_keys[0], batch
        self.data = trainer.train_data

    def __call__(self) -> Any:
        """Take a step."""
        self.member, loss = self.step(self.member, *self.inputs, self.data)
        return self.member, loss


class Updates:
    """Optimizer steps alone, with constant gradients."""

    def __init__(self, run: Run):
        """Begin from the run's member."""
        program, strength = run.trainer.program, run.trainer.strengths[0]
        member = run.member()
        self.carry = member.params, member.opt_state
        self.grads = jax.tree.map(lambda x: 0.01 * x, member.params)

        @functools.partial(jax.jit, donate_argnums=0)
        def update(carry: Any, grads: Any) -> Any:
            params, state = carry
            updates, state = program.optimizer(strength).update(grads, state, params)
            return optax.apply_updates(params, updates), state

        self.update = update

    def __call__(self) -> Any:
        """Update once."""
        self.carry = self.update(self.carry, self.grads)
        return self.carry


def start(network: str, method: Method, n_images: int) -> Run:
    """Return a run on random images, as many as told to train on."""
    rng = np.random.default_rng(0)
    spec = SPECS[DATA[network]]

    def split(n: int) -> Split:
        images = rng.integers(0, 256, (n, *spec.shape), np.uint8)
        return Split(images, rng.integers(0, spec.n_classes, n, np.int32))

    data = Dataset(spec, split(n_images), split(min(n_images, spec.counts[1])))
    settings = preset(f"{network}/{DATA[network]}", method)
    trainer = Trainer(settings, data, seeds=[0], strengths=[STRENGTH])
    return Run(trainer, trainer.init())


def parts_of_step(run: Run) -> dict[str, Contestant]:
    """Return what a step consists of and can be timed alone."""
    trainer = run.trainer
    batch = np.arange(trainer.program.batch_size)

    @jax.jit
    def gather(key: jax.Array, batch: jax.Array, data: Split) -> Any:
        images, labels = data.images[batch], data.labels[batch]
        if trainer.program.spec.augmented:
            images = augment(key, images)
        return images, labels

    def read() -> Any:
        key = jax.random.fold_in(trainer.run_keys[0], 0)
        return gather(key, batch, trainer.train_data)

    return {"gather": read, "update": Updates(run)}


def parts_of_epoch(run: Run, log: Path) -> dict[str, Contestant]:
    """Return what comes once an epoch, outside the steps.

    Args:
      run: Its member is left as it is.
      log: File to write to.
    """
    trainer, members = run.trainer, jax.tree.map(jnp.copy, run.members)
    program, key = trainer.program, trainer.run_keys[0]
    shares = jax.device_get(program.measure(members)[1])
    record = {"epoch": 1, "loss": np.ones(1), "accuracy": np.ones(1), **shares}
    return {
        "shuffle": lambda: np.asarray(shuffle(program.n_images, key, 0)[0]),
        "metrics": lambda: program.measure(members),
        "log": lambda: logs.append(log, record),
        "accuracy": lambda: trainer.evaluate(members),
    }
