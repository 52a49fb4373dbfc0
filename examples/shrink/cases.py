"""The models that are made smaller, and how each came by its zeros."""

import dataclasses
import functools
import operator
import pydoc_data.topics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import rmda_jax as rj
from examples._data import Split, load as load_digits
from examples.poster.data import load as load_images
from examples.poster.images import normalize
from examples.poster.models import NETWORKS
from examples.shrink.models import LanguageModel, VisionTransformer
from examples.shrink.training import train

SEED = 0
CONTEXT, SEQUENCES = 64, 16  # of the language model: characters, and how many at once
_cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels

Fn = Callable[[Any, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Case:
    """A model with zeros."""

    title: str
    zeros: str  # where they are from
    fn: Fn
    params: Any
    inputs: jax.Array  # what FLOPs and latency are measured on
    score: Callable[[Fn, Any], str] | None = None  # of a function and its params
    low_rank: bool = False  # its matrices are products, rather than zero in part


def function_of(model: nnx.Module) -> tuple[Fn, nnx.State]:
    """Return a module as a function of its params and batch statistics."""
    model.eval()
    graphdef, params, rest = nnx.split(model, (nnx.Param, nnx.BatchStat), ...)
    return lambda params, x: nnx.merge(graphdef, params, rest)(x), params


@dataclasses.dataclass(frozen=True)
class Options:
    """What the cases can be asked for."""

    steps: float = 1.0
    """How long to train, as a share of the usual."""
    params: Path | None = None
    """LeNet-5 of a run on Fashion-MNIST, a file written by `rmda_jax.shrink.save`."""
    data_dir: Path | None = None
    """Folder of Fashion-MNIST, for the accuracy of --params; else it is downloaded."""


def lenet5(options: Options) -> Case:
    """Return the large LeNet-5 with the zeros of a run, or else with as many."""
    fn, params = function_of(NETWORKS["lenet5"](rngs=nnx.Rngs(SEED)))
    images = jax.random.normal(jax.random.key(SEED), (64, 28, 28, 1))
    if options.params is None:
        params = imposed(fn, params, images, share=0.62)
        zeros = "imposed on 62 % of its units"
        return Case("LeNet-5, large", zeros, fn, params, images)
    params, _ = rj.shrink.load(options.params, like=params)
    data = load_images("fashion_mnist", options.data_dir)
    test = Split(np.asarray(normalize(data.test.images, data.spec)), data.test.labels)
    zeros = "RMDA on Fashion-MNIST"
    return Case("LeNet-5, large", zeros, fn, params, images, accuracy(test))


def given(title: str, network: str, n_images: int, options: Options) -> Case:
    """Return a network of the poster with zeros in the place of learned ones."""
    del options
    fn, params = function_of(NETWORKS[network](rngs=nnx.Rngs(SEED)))
    images = jax.random.normal(jax.random.key(SEED), (n_images, 32, 32, 3))
    params = imposed(fn, params, images, share=0.5)
    return Case(title, f"imposed on half its units, seed {SEED}", fn, params, images)


def imposed(fn: Fn, params: Any, x: jax.Array, share: float) -> Any:
    """Set to zero what reads a random share of every set of units that can go."""
    rng = np.random.default_rng(SEED)
    params = jax.tree.map(np.array, params)
    for units in rj.shrink.trace(fn, params, x).free:
        chosen = rng.permutation(units.size)[: int(share * units.size)]
        for member in units.members:
            if "consumes" in member.roles:
                path = member.leaf.split("/")
                weights = functools.reduce(operator.getitem, path, params)[...]
                np.moveaxis(weights, member.axis, 0)[member.positions[chosen]] = 0
    return jax.tree.map(jnp.asarray, params)


def vit(options: Options) -> Case:
    """Train a small vision transformer on scikit-learn's digits."""
    data = load_digits("digits")
    fn, params = function_of(VisionTransformer(rngs=nnx.Rngs(SEED)))
    params = train(
        lambda p, x, y: _cross_entropy(fn(p, x), y).mean(),
        params,
        draw(data.train, 64),
        rj.shrink.spec(fn, params, data.train.images[:1]),
        learning_rate=1.0,
        strength=1e-3,
        steps=int(1500 * options.steps),
    )
    images = jnp.asarray(data.test.images[:64])
    zeros = "RMDA on 8x8 digits"
    return Case("vision transformer", zeros, fn, params, images, accuracy(data.test))


def low_rank(options: Options) -> Case:
    """Train an MLP by the nuclear norm on scikit-learn's digits."""
    data = load_digits("digits")
    rng = nnx.Rngs(SEED)
    layers = [nnx.Linear(n, m, rngs=rng) for n, m in ((64, 128), (128, 128), (128, 10))]
    params = {f"dense{i}": nnx.to_pure_dict(nnx.state(x)) for i, x in enumerate(layers)}
    params = train(
        lambda p, x, y: _cross_entropy(mlp(p, x), y).mean(),
        params,
        draw(data.train, 64),
        rj.RegularizerMap([("*/kernel", rj.nuclear_norm())]),
        learning_rate=0.5,
        strength=0.02,
        steps=int(300 * options.steps),
    )
    images = jnp.asarray(data.test.images[:64])
    return Case(
        "MLP, in factors",
        "RMDA and the nuclear norm on 8x8 digits",
        mlp,
        params,
        images,
        accuracy(data.test),
        low_rank=True,
    )


def mlp(params: dict[str, dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    """Compute dense layers; a kernel may be two factors, one above the other."""
    x = x.reshape(len(x), -1)
    for i, layer in enumerate(params.values()):
        kernel = layer["kernel"]
        x = nnx.relu(x) if i else x
        if kernel.shape == (x.shape[-1], len(layer["bias"])):
            x = x @ kernel
        else:
            left, right = jnp.split(kernel, [x.shape[-1]])
            x = x @ left @ right.T
        x = x + layer["bias"]
    return x


def factored(params: dict[str, dict[str, jax.Array]]) -> dict[str, Any]:
    """Put two factors in the place of every kernel that has more weights than they."""
    small = {}
    for name, layer in params.items():
        left, right = rj.shrink.factors(layer["kernel"])
        pair = jnp.concatenate([left, right.T])
        shorter = pair if pair.size < layer["kernel"].size else layer["kernel"]
        small[name] = layer | {"kernel": shorter}
    return small


def lm(options: Options) -> Case:
    """Train a small language model on the texts that `help()` of Python shows."""
    text = "\n".join(topic for _, topic in sorted(pydoc_data.topics.topics.items()))
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int32)
    tokens = np.where(codes == ord("\n"), 0, np.clip(codes, 32, 126) - 31)
    seen, unseen = np.split(tokens, [len(tokens) * 9 // 10])
    windows = np.arange(CONTEXT + 1)

    def batches(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        starts = rng.integers(0, len(seen) - CONTEXT, SEQUENCES)
        text = seen[starts[:, None] + windows]
        return text[:, :-1], text[:, 1:]

    def score(fn: Fn, params: Any) -> str:
        text = unseen[: len(unseen) // len(windows) * len(windows)]
        text = text.reshape(-1, len(windows))
        logits = jax.jit(fn)(params, text[:, :-1])
        return f"loss {_cross_entropy(logits, text[:, 1:]).mean():.4f}"

    fn, params = function_of(LanguageModel(96, rngs=nnx.Rngs(SEED)))
    inputs = jnp.asarray(unseen[: SEQUENCES * CONTEXT].reshape(SEQUENCES, CONTEXT))
    params = train(
        lambda p, x, y: _cross_entropy(fn(p, x), y).mean(),
        params,
        batches,
        rj.shrink.spec(fn, params, inputs),
        learning_rate=1.0,
        strength=2e-3,
        steps=int(600 * options.steps),
    )
    zeros = "RMDA on Python's own help texts"
    return Case("language model", zeros, fn, params, inputs, score)


def draw(
    split: Split, size: int
) -> Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]:
    """Return what draws a batch of images with their labels."""

    def batches(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        chosen = rng.integers(0, len(split.labels), size)
        return split.images[chosen], split.labels[chosen]

    return batches


def accuracy(split: Split) -> Callable[[Fn, Any], str]:
    """Return what measures the share of images that are classified correctly."""

    def score(fn: Fn, params: Any) -> str:
        found = [
            np.argmax(jax.jit(fn)(params, images), axis=-1)
            for images in np.array_split(split.images, -(-len(split.images) // 1000))
        ]
        return f"{np.mean(np.concatenate(found) == split.labels):.2%}"

    return score


CASES = {
    "lenet5": lenet5,
    "vgg19": functools.partial(given, "VGG19", "vgg19", 8),
    "resnet50": functools.partial(given, "ResNet-50", "resnet50", 4),
    "vit": vit,
    "lm": lm,
    "low_rank": low_rank,
}
