"""Training a front: many settings of a method, and several seeds, in one program."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import rmda_jax as rj
from examples._data import Split
from examples.demo.augmentation import augment
from examples.demo.methods import REGULARIZER, Setting, make_optimizer, structured
from examples.demo.network import LeNet, matrix_convolution

Params = nnx.State


class Run(NamedTuple):
    """What a training run carries from step to step."""

    params: nnx.State
    opt_state: optax.OptState


class Epoch(NamedTuple):
    """What an epoch brought: arrays whose first axes are seeds and settings."""

    loss: jax.Array  # (seeds, settings), mean over the batches
    active: jax.Array  # (seeds, settings, groups): whether the group is not zero
    params: nnx.State  # those that carry the structure


@dataclasses.dataclass(frozen=True, eq=False)
class Front:
    """Trains a network by every setting and with every seed, side by side.

    Runs of one seed share initial params, order of the images and augmentation, so
    that only the setting differs.
    """

    method: str  # one of METHODS
    settings: Sequence[Setting]
    seeds: Sequence[int]
    epochs: int
    batch_size: int

    def train(self, data: Split) -> Iterator[Epoch]:
        """Yield what each epoch brought."""
        graphdef = definition(data.images.shape[1])
        settings = Setting(*jnp.asarray(self.settings, jnp.float32).T)
        n_steps = self.epochs * (len(data.labels) // self._batch_size(data))
        optimizer = lambda setting: make_optimizer(self.method, setting, n_steps)

        @jax.jit
        def init(params: nnx.State) -> Run:
            one = lambda params, setting: Run(params, optimizer(setting).init(params))
            of_seed = jax.vmap(one, in_axes=(None, 0))
            return jax.vmap(of_seed, in_axes=(0, None))(params, settings)

        def step(run: Run, setting: Setting, batch: Split) -> tuple[Run, jax.Array]:
            loss, grads = jax.value_and_grad(mean_loss, 1)(graphdef, run.params, batch)
            updates, opt_state = optimizer(setting).update(
                grads, run.opt_state, run.params
            )
            return Run(optax.apply_updates(run.params, updates), opt_state), loss

        def epoch_of_seed(
            runs: Run, seed: jax.Array, number: jax.Array, data: Split
        ) -> tuple[Run, jax.Array]:
            def body(runs: Run, key_and_batch: Any) -> tuple[Run, jax.Array]:
                key, indices = key_and_batch
                images = augment(key, data.images[indices])
                batch = Split(images, data.labels[indices])
                one = lambda run, setting: step(run, setting, batch)
                return jax.vmap(one)(runs, settings)

            return jax.lax.scan(body, runs, self._batches(seed, number, data))

        @functools.partial(jax.jit, donate_argnums=0)
        def epoch(runs: Run, number: jax.Array, data: Split) -> tuple[Run, Epoch]:
            of_seed = lambda runs, seed: epoch_of_seed(runs, seed, number, data)
            runs, losses = jax.vmap(of_seed)(runs, jnp.asarray(self.seeds))
            one = lambda run: structured(self.method, run.params, run.opt_state)
            params = jax.vmap(jax.vmap(one))(runs)
            active = jax.vmap(jax.vmap(active_groups))(params)
            return runs, Epoch(losses.mean(axis=1), active, params)

        runs = init(initial_params(data.images.shape[1], self.seeds))
        for number in range(self.epochs):
            runs, brought = epoch(runs, jnp.asarray(number), data)
            yield brought

    def _batch_size(self, data: Split) -> int:
        return min(self.batch_size, len(data.labels))

    def _batches(
        self, seed: jax.Array, epoch: jax.Array, data: Split
    ) -> tuple[jax.Array, jax.Array]:
        """Return for each step a key and the indices of its images."""
        n, size = len(data.labels), self._batch_size(data)
        order_key, key = jax.random.split(
            jax.random.fold_in(jax.random.key(seed), epoch)
        )
        order = jax.random.permutation(order_key, n)[: n // size * size]
        batches = order.reshape(-1, size)
        return jax.random.split(key, len(batches)), batches


def mean_loss(graphdef: nnx.GraphDef, params: nnx.State, batch: Split) -> jax.Array:
    """Return the mean cross-entropy of a batch."""
    logits = nnx.merge(graphdef, params)(batch.images)
    return optax.losses.softmax_cross_entropy_with_integer_labels(
        logits, batch.labels
    ).mean()


def network(image_size: int, seed: int) -> LeNet:
    """Return the network with initial params."""
    return LeNet(image_size, convolution=matrix_convolution, rngs=nnx.Rngs(seed))


def definition(image_size: int) -> nnx.GraphDef:
    """Return what makes a network of params."""
    return nnx.split(nnx.eval_shape(lambda: network(image_size, 0)), nnx.Param)[0]


def initial_params(image_size: int, seeds: Sequence[int]) -> nnx.State:
    """Return params with an axis of seeds in front."""
    params = [nnx.state(network(image_size, seed), nnx.Param) for seed in seeds]
    return jax.tree.map(lambda *x: jnp.stack(x), *params)


def active_groups(params: nnx.State) -> jax.Array:
    """Return for every group of the kernels, in one array, whether it is not zero."""
    return jnp.concatenate(list(kernels(REGULARIZER.support(params)).values()))


def kernels(tree: nnx.State) -> dict[str, jax.Array]:
    """Return what the tree holds for the kernel of each layer."""
    leaves = jax.tree.leaves_with_path(tree)
    return {path[0].key: leaf for path, leaf in leaves if path[1].key == "kernel"}


def n_changes(active: Sequence[np.ndarray]) -> np.ndarray:
    """Return how many groups change between zero and not from epoch to epoch.

    Args:
      active: For each epoch, shape (seeds, settings, groups): whether it is not zero.

    Returns:
      Shape (epochs - 1, seeds, settings).
    """
    epochs = np.stack(active)
    return (epochs[1:] != epochs[:-1]).sum(axis=-1)


@jax.jit
def measure(params: nnx.State, images: Split) -> dict[str, jax.Array]:
    """Return accuracy and sparsity of networks whose first axes are seeds and settings.

    Args:
      params: Those that carry the structure.
      images: What the accuracy is measured on.

    Returns:
      Shares of shape (seeds, settings): ``accuracy``, and of groups and weights that
      are zero, ``groups_zero`` and ``weights_zero``.
    """
    graphdef = definition(images.images.shape[1])

    def one(params: nnx.State) -> dict[str, jax.Array]:
        logits = nnx.merge(graphdef, params)(images.images)
        return {
            "accuracy": jnp.mean(jnp.argmax(logits, axis=-1) == images.labels),
            "groups_zero": rj.metrics.group_sparsity(params, REGULARIZER),
            "weights_zero": rj.metrics.sparsity(params, REGULARIZER),
        }

    return jax.vmap(jax.vmap(one))(params)
