r"""What a pruning at once goes by: scores of weights, whose groups are then compared.

Each gives a tree like the params. A group's score is the norm of its entries over the
root of their number, which within a rule is the same for all groups
(`shrinking.zeroed`).

- magnitude: :math:`w`.
- taylor: :math:`\sqrt{\operatorname{mean}_b (g_b w)^2}` over calibration batches b, by
  how much the loss changes, to first order, if the weight becomes zero; summed over a
  group as squares, as in Molchanov et al., Importance Estimation for Neural Network
  Pruning, 2019. The loss is the cross-entropy of the text: that of
  training adds the distance from the dense model, whose gradient is zero there.
- wanda: :math:`|w|\,\|x\|`, where :math:`x` are the values that the weight multiplies,
  over all calibration tokens (Sun et al., A Simple and Effective Pruning Approach for
  Large Language Models, 2023). There it is of single weights; here the kernels that
  read a unit, `down` and `out`, have scores, and the others of the group none.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from examples.pretrained import model


def cross_entropy(fn: model.Fn, params: Any, rows: jax.Array) -> jax.Array:
    """Return the mean negative log-likelihood of windows (batch, length + 1)."""
    logits = fn(params, rows[:, :-1])
    losses = optax.softmax_cross_entropy_with_integer_labels
    return losses(logits, rows[:, 1:]).mean()


def magnitude(config: model.Config, params: Any, batches: Iterable[Any]) -> Any:
    """Return the params; no batch is read."""
    del config, batches
    return params


def taylor(config: model.Config, params: Any, batches: Iterable[Any]) -> Any:
    """Return the root of the mean square of gradient times weight."""
    fn, _ = model.function(config)

    def add(sums: Any, params: Any, rows: jax.Array) -> Any:
        grads = jax.grad(lambda p: cross_entropy(fn, p, rows))(params)
        return jax.tree.map(lambda s, g, w: s + (g * w) ** 2, sums, grads, params)

    sums, n = jax.tree.map(jnp.zeros_like, params), 0
    step = jax.jit(add, donate_argnums=0)
    for rows in batches:
        sums, n = step(sums, params, rows), n + 1
    return jax.jit(
        lambda sums: jax.tree.map(lambda s: jnp.sqrt(s / n), sums), donate_argnums=0
    )(sums)


def wanda(config: model.Config, params: Any, batches: Iterable[Any]) -> Any:
    """Return weight times norm of what it multiplies, in `down` and `out`, else 0."""
    build, _ = model.builder(config)
    squares = jax.jit(lambda params, rows: activation_squares(build(params), rows))
    total: Any = None
    for rows in batches:
        found = squares(params, rows[:, :-1])
        total = found if total is None else jax.tree.map(jnp.add, total, found)
    scores = jax.tree.map(jnp.zeros_like, params)
    for name, layer in total.items():
        for part, kernel in (("attention", "out"), ("mlp", "down")):
            norm = jnp.sqrt(layer[part])[..., None]
            scores[name][part][kernel] = jnp.abs(params[name][part][kernel]) * norm
    return scores


def activation_squares(llama: model.Llama, tokens: jax.Array) -> dict[str, Any]:
    """Return the sums over tokens of the squares of what `out` and `down` multiply.

    Returns:
      For every layer of (groups, queries, size) under ``attention``, and of (hidden,)
      under ``mlp``.
    """
    found, x = {}, llama.embedding[...][tokens]
    for i in range(llama.layers):
        block = getattr(llama, f"block{i}")
        # Computed once more inside of the block; the compiler merges the two.
        h = block.norm1(x)
        heads, y = block.attention.heads(h), x + block.attention(h)
        units = block.mlp.units(block.norm2(y))
        found[f"block{i}"] = {
            "attention": jnp.sum(heads**2, (0, 3)),
            "mlp": jnp.sum(units**2, (0, 1)),
        }
        x = block(x)
    return found


Criterion = Callable[[model.Config, Any, Iterable[Any]], Any]
CRITERIA: dict[str, Criterion] = {
    "magnitude": magnitude,
    "taylor": taylor,
    "wanda": wanda,
}
