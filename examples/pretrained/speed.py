"""Tokens a second of the model before and after shrinking.

A prompt is read at once (prefill); then tokens are made one by one, each from the keys
and values that the caches hold of those before (decode).
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rmda_jax as rj
from examples.pretrained import model
from examples.pretrained.shrinking import count, made_smaller

HEAD = (
    "| model | parameters | bytes on disk | prefill, tokens a second | "
    "decode, tokens a second | largest difference of a logit |\n"
    "|---|---|---|---|---|---|"
)


@dataclasses.dataclass(frozen=True)
class Speed:
    """What was measured of one model."""

    title: str
    parameters: int
    bytes: int
    prefill: np.ndarray  # seconds for each token, one of every round
    decode: np.ndarray
    difference: rj.shrink.OutputDifference | None  # from the model with zeros

    def row(self, dense: "Speed") -> str:
        """Return a row of the table; ratios are medians over rounds."""

        def per_second(name: str) -> str:
            seconds, whole = getattr(self, name), getattr(dense, name)
            ratio = f" ({np.median(whole / seconds):.2f} x)" if self != dense else ""
            return f"{1 / np.median(seconds):.3g}{ratio}"

        found = self.difference
        cells = (
            self.title,
            f"{self.parameters:,}",
            f"{self.bytes:,}",
            per_second("prefill"),
            per_second("decode"),
            f"{found.max_abs:.1e} of {found.scale:.3g}" if found else "-",
        )
        return f"| {' | '.join(cells)} |"


def calls(
    config: model.Config, params: Any, prompt: jax.Array, n_new: int
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return what reads a prompt, and what makes the most likely tokens after it."""
    step = jax.jit(model.stepper(config))
    n_prompt = prompt.shape[1]
    empty = model.empty_caches(params, len(prompt), n_prompt + n_new)
    zero = jnp.int32(0)
    after_prompt = step(params, prompt, empty, zero)

    def decode() -> jax.Array:
        logits, caches = after_prompt
        made = []
        for i in range(n_new):
            made.append(logits.argmax(-1))
            logits, caches = step(params, made[-1][:, None], caches, n_prompt + i)
        return jnp.stack(made, axis=1)

    return lambda: step(params, prompt, empty, zero), decode


def measured(
    config: model.Config,
    params: Any,
    text: jax.Array,
    keeps: Sequence[float],
    *,
    n_prompt: int,
    n_new: int,
    timer: Any,
) -> list[Speed]:
    """Return what was measured of the model and of smaller ones, by turns.

    Args:
      config: The sizes of the model.
      params: Its weights.
      text: Token ids, of which the first are the prompt.
      keeps: For each smaller model the share of every layer's units that it keeps.
      n_prompt: The number of tokens that are read at once.
      n_new: The number of tokens that are made after them.
      timer: What `rmda_jax.shrink.by_turns` returned.

    Raises:
      ValueError: the text has no ``n_prompt`` tokens.
    """
    if not 1 <= n_prompt <= len(text):
        raise ValueError(
            f"`prompt` must be from 1 to the {len(text)} tokens of the text, got "
            f"{n_prompt}."
        )
    fn, _ = model.function(config)
    models, differences = {"dense": params}, {}
    for keep in keeps:
        zeros, small = made_smaller(fn, params, keep)
        title = f"{keep:.0%} of the units"
        differences[title] = rj.shrink.verify(fn, zeros, small, text[None, :32])
        models[title] = small
    prompt = text[None, :n_prompt]
    pairs = [calls(config, each, prompt, n_new) for each in models.values()]
    prefill, decode = (timer(list(each)) for each in zip(*pairs, strict=True))
    return [
        Speed(
            title,
            count(each),
            bytes_on_disk(each),
            prefill[i] / n_prompt,
            decode[i] / n_new,
            differences.get(title),
        )
        for i, (title, each) in enumerate(models.items())
    ]


def bytes_on_disk(params: Any) -> int:
    """Return the bytes of the file that `rmda_jax.shrink.save` writes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "params.safetensors"
        rj.shrink.save(path, params)
        return path.stat().st_size
