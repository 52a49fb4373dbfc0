"""Several training runs at once: seeds, strengths, or both, in one program.

A run is a `Member`; the members of a `Trainer` are stacked along a first axis. Three
loops give the same numbers:

- ``"vmap"``: an epoch is one program, a scan over its steps, for all members together.
  Fastest for small networks on a GPU, and for dense layers alone also on a CPU.
- ``"map"``: the same, but the members take turns, because `vmap` makes grouped
  convolutions of them, which may be slower than one after the other.
- ``"step"``: a step is one program, and the members take turns. On a CPU, XLA runs
  convolutions in a scan up to 17 times slower, and grouped ones 2.4 times.

What is random follows from seed, epoch and batch alone, so that a run can be resumed
after any epoch with nothing but its members.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from examples.poster.data import Dataset, Spec, Split
from examples.poster.images import augment, normalize
from examples.poster.methods import make_optimizer, measure, structured_params
from examples.poster.models import NETWORKS
from examples.poster.presets import Preset

Loop = Literal["vmap", "map", "step"]
TEST_BATCH = 1000  # images that are classified at once


class Member(NamedTuple):
    """What a training run carries from step to step."""

    params: nnx.State
    batch_stats: nnx.State
    opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled to train one member; equal programs are compiled once."""

    preset: Preset
    spec: Spec
    n_images: int
    dtype: str

    @property
    def batch_size(self) -> int:
        return min(self.preset.batch_size, self.n_images)

    @property
    def steps_per_epoch(self) -> int:
        # As PyTorch's loaders do, keep the last partial batch. It is a step of another
        # shape, not one padded with images: batch normalization would see those.
        return -(-self.n_images // self.batch_size)

    def network(self, rngs: nnx.Rngs) -> nnx.Module:
        network = NETWORKS[self.preset.network]
        return network(self.spec.n_classes, dtype=jnp.dtype(self.dtype), rngs=rngs)

    @functools.cached_property
    def graphdef(self) -> nnx.GraphDef:
        model = nnx.eval_shape(lambda: self.network(nnx.Rngs(0)))
        return nnx.split(model, nnx.Param, ...)[0]

    def optimizer(
        self, strength: jax.Array, key: jax.Array | None = None
    ) -> optax.GradientTransformation:
        return make_optimizer(self.preset, self.steps_per_epoch, strength, key)

    def init(self, key: jax.Array, strength: jax.Array) -> Member:
        """Return the member before its first step."""
        model_key, mask_key = jax.random.split(key)
        model = self.network(nnx.Rngs(model_key))
        _, params, batch_stats = nnx.split(model, nnx.Param, ...)
        opt_state = self.optimizer(strength, mask_key).init(params)
        if self.preset.method == "rigl":
            params = structured_params(self.preset, params, opt_state)
        return Member(params, batch_stats, opt_state)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def step(
        self,
        member: Member,
        strength: jax.Array,
        key: jax.Array,
        batch: jax.Array,
        data: Split,
    ) -> tuple[Member, jax.Array]:
        """Train on the images with the indices of `batch`; return the loss as well."""
        images, labels = data.images[batch], data.labels[batch]
        if self.spec.augmented:
            images = augment(key, images)

        @functools.partial(jax.value_and_grad, has_aux=True)
        def loss_and_grads(params: nnx.State) -> tuple[jax.Array, nnx.State]:
            # Variables made anew, because NNX lets no others change under a gradient.
            batch_stats = jax.tree.map(lambda x: x, member.batch_stats)
            model = nnx.merge(self.graphdef, params, batch_stats)
            model.train()
            logits = model(normalize(images, self.spec)).astype(jnp.float32)
            losses = optax.losses.softmax_cross_entropy_with_integer_labels(
                logits, labels
            )
            return losses.mean(), nnx.state(model, nnx.BatchStat)

        (loss, batch_stats), grads = loss_and_grads(member.params)
        updates, opt_state = self.optimizer(strength).update(
            grads, member.opt_state, member.params
        )
        params = optax.apply_updates(member.params, updates)
        return Member(params, batch_stats, opt_state), loss

    def scan_epoch(
        self,
        member: Member,
        strength: jax.Array,
        key: jax.Array,
        epoch: int,
        data: Split,
    ) -> tuple[Member, jax.Array]:
        """Train for an epoch, as one program; return the mean loss as well."""
        order, image_key = shuffle(self.n_images, key, epoch)
        full, rest = self.batches(order)

        def body(
            member: Member, numbered: tuple[jax.Array, jax.Array]
        ) -> tuple[Member, jax.Array]:
            number, batch = numbered
            step_key = jax.random.fold_in(image_key, number)
            return self.step(member, strength, step_key, batch, data)

        member, losses = jax.lax.scan(body, member, (jnp.arange(len(full)), full))
        total = losses.sum() * self.batch_size
        if rest.size:
            member, loss = body(member, (jnp.asarray(len(full)), rest))
            total += loss * rest.size
        return member, total / self.n_images

    @functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
    def scan_epochs(
        self,
        loop: Loop,
        members: Member,
        strengths: jax.Array,
        keys: jax.Array,
        epoch: int,
        data: Split,
    ) -> tuple[Member, jax.Array]:
        """Train all members for an epoch."""
        one = lambda member: self.scan_epoch(*member, epoch, data)
        if loop == "vmap":
            return jax.vmap(one)((members, strengths, keys))
        return jax.lax.map(one, (members, strengths, keys))

    def step_epoch(
        self,
        member: Member,
        strength: jax.Array,
        key: jax.Array,
        epoch: int,
        data: Split,
    ) -> tuple[Member, float]:
        """Train for an epoch, step by step; return the mean loss as well."""
        order, image_key = shuffle(self.n_images, key, epoch)
        full, rest = self.batches(np.asarray(order))
        batches = [*full, rest] if rest.size else full
        losses = []
        for number, batch in enumerate(batches):
            step_key = jax.random.fold_in(image_key, number)
            member, loss = self.step(member, strength, step_key, batch, data)
            losses.append(loss)
        sizes = [len(batch) for batch in batches]
        return member, float(np.average(jax.device_get(losses), weights=sizes))

    def batches(self, order: Any) -> tuple[Any, Any]:
        """Return the full batches, and what is left."""
        n_full = self.n_images // self.batch_size
        full, rest = (
            order[: n_full * self.batch_size],
            order[n_full * self.batch_size :],
        )
        return full.reshape(n_full, self.batch_size), rest

    @functools.partial(jax.jit, static_argnums=0)
    def measure(self, members: Member) -> tuple[nnx.State, dict[str, jax.Array]]:
        """Return the structured params of all members, and their sparsity."""

        def one(member: Member) -> tuple[nnx.State, dict[str, jax.Array]]:
            params = structured_params(self.preset, member.params, member.opt_state)
            return params, measure(self.preset, params, member.opt_state)

        return jax.vmap(one)(members)

    @functools.partial(jax.jit, static_argnums=0)
    def count_correct(
        self, params: nnx.State, batch_stats: nnx.State, images: Any, labels: Any
    ) -> jax.Array:
        """Return how many of the images a network classifies correctly."""
        model = nnx.merge(self.graphdef, params, batch_stats)
        model.eval()
        logits = model(normalize(images, self.spec))
        return jnp.sum(jnp.argmax(logits, axis=-1) == labels)


class Trainer:
    """Trains one member for every pair of a seed and a strength."""

    def __init__(
        self,
        preset: Preset,
        data: Dataset,
        seeds: Sequence[int],
        strengths: Sequence[float],
        *,
        loop: Loop | None = None,
        dtype: str = "float32",
    ):
        self.preset = preset
        if preset.method != "rigl":  # whose strength decides what is compiled
            preset = dataclasses.replace(preset, strength=None)
        self.program = Program(preset, data.spec, len(data.train.labels), dtype)
        self.loop = loop or default_loop(preset.network)
        self.train_data, self.test_data = jax.device_put((data.train, data.test))
        keys = [jax.random.split(jax.random.key(seed)) for seed in seeds]
        self.init_keys, self.run_keys = jnp.stack(keys, axis=1)
        self.strengths = jnp.asarray(strengths, jnp.float32)

    def init(self) -> Member:
        """Return the members before the first step."""
        pairs = zip(self.init_keys, self.strengths, strict=True)
        return _stack([self.program.init(*pair) for pair in pairs])

    def train_epoch(self, members: Member, epoch: int) -> tuple[Member, np.ndarray]:
        """Train for one epoch; return the members and each one's mean loss."""
        if self.loop != "step":
            parts = members, self.strengths, self.run_keys
            members, losses = self.program.scan_epochs(
                self.loop, *parts, epoch, self.train_data
            )
            return members, np.asarray(losses)
        trained, losses = [], []
        for i, (strength, key) in enumerate(
            zip(self.strengths, self.run_keys, strict=True)
        ):
            member, loss = self.program.step_epoch(
                _at(i, members), strength, key, epoch, self.train_data
            )
            trained.append(member)
            losses.append(loss)
        return _stack(trained), np.asarray(losses)

    def evaluate(self, members: Member) -> dict[str, np.ndarray]:
        """Return test accuracy and sparsity of each member's structured params."""
        params, shares = self.program.measure(members)
        n = len(self.test_data.labels)
        correct = np.zeros(len(self.strengths), int)
        for i in range(len(correct)):
            member = _at(i, (params, members.batch_stats))
            for begin in range(0, n, TEST_BATCH):
                batch = (x[begin : begin + TEST_BATCH] for x in self.test_data)
                correct[i] += self.program.count_correct(*member, *batch)
        return {"accuracy": correct / n} | jax.device_get(shares)


@functools.partial(jax.jit, static_argnums=0)
def shuffle(n_images: int, key: jax.Array, epoch: int) -> tuple[jax.Array, jax.Array]:
    """Return the order of the images in an epoch, and a key to augment them."""
    order_key, image_key = jax.random.split(jax.random.fold_in(key, epoch))
    return jax.random.permutation(order_key, n_images), image_key


def default_loop(network: str) -> Loop:
    """Return the faster loop on this machine (on a GPU a guess, not measured)."""
    if network in ("logistic", "mlp"):
        return "vmap"
    if jax.default_backend() == "cpu":
        return "step"
    return "map" if network in ("vgg19", "resnet50") else "vmap"


def _stack(members: list[Member]) -> Member:
    return jax.tree.map(lambda *x: jnp.stack(x), *members)


def _at(i: int, members: Any) -> Any:
    return jax.tree.map(lambda x: x[i], members)
