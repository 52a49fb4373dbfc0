"""What small networks of many kinds of layers compute: all sizes are their params'."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

INPUTS = {  # by family; those of "tokens" are integers below N_TOKENS
    "vector": (3, 2),
    "sequence": (2, 4, 2),
    "tokens": (2, 4),
    "image": (2, 4, 4, 2),
}
N_TOKENS = 5
ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "sigmoid": jax.nn.sigmoid,  # the one that makes something of nothing
}
EPS = 1e-3


class Layer(NamedTuple):
    """A layer, and the name of its activation."""

    kind: str
    activation: str


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree of what is named by paths."""
    tree: dict[str, Any] = {}
    for name, x in flat.items():
        *folders, leaf = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = x
    return tree


def conv(x, kernel):
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


def dense(p, x):
    y = conv(x, p["kernel"]) if p["kernel"].ndim == 4 else x @ p["kernel"]
    return y + p["bias"] if "bias" in p else y


def low_rank(p, x):
    return dense(p, x) + x @ p["a"] @ p["b"]


def concatenated(p, x, act):
    return jnp.concatenate([x, act(dense(p, x))], axis=-1)


def shuffled(x, groups=2):
    """Interleave groups of channels."""
    return x.reshape(*x.shape[:-1], groups, -1).swapaxes(-1, -2).reshape(x.shape)


def branch(p, x, act):
    """Return what a residual block adds."""
    return dense(p["down"], act(dense(p["up"], x)))


def gated(p, x, act):
    return dense(p["down"], act(dense(p["gate"], x)) * dense(p["up"], x))


def scaled(p, x):
    return x * p["scale"] + p["shift"] if "shift" in p else x * p["scale"]


def batch_norm(p, x):
    variance = jnp.square(p["deviation"])
    return scaled(p, (x - p["mean"]) * lax.rsqrt(variance + EPS))


def layer_norm(p, x):
    mean, variance = (f(x, -1, keepdims=True) for f in (jnp.mean, jnp.var))
    return scaled(p, (x - mean) * lax.rsqrt(variance + EPS))


def rms_norm(p, x):
    return scaled(p, x * lax.rsqrt((x**2).mean(-1, keepdims=True) + EPS))


def group_norm(p, x, groups=2):
    y = x.reshape(*x.shape[:-1], groups, -1)
    over = (*range(1, x.ndim - 1), x.ndim)
    mean, variance = (f(y, over, keepdims=True) for f in (jnp.mean, jnp.var))
    return scaled(p, ((y - mean) * lax.rsqrt(variance + EPS)).reshape(x.shape))


def cached(rows, size=7):
    """Write rows into a cache that is made here."""
    empty = jnp.zeros((len(rows), size, *rows.shape[2:]))
    return lax.dynamic_update_slice(empty, rows, (0, 1, 0, 0))


def rotated(x):
    """Rotate pairs of dimensions, by angles that grow along the sequence."""
    first, second = jnp.split(x, 2, axis=-1)
    angles = jnp.arange(x.shape[1])[:, None, None] / (1 + jnp.arange(first.shape[-1]))
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def attended(q, k, v, causal=False):
    """Return the values, averaged by the softmax of queries times keys."""
    logits = jnp.einsum("bthe,bshe->bhts", q, k) / 2
    if causal:
        logits = jnp.where(jnp.tri(*logits.shape[2:], dtype=bool), logits, -1e9)
    return jnp.einsum("bhts,bshe->bthe", jax.nn.softmax(logits), v)


def attention(p, x, kind="attention"):
    q, k, v = (jnp.einsum("btd,dhe->bthe", x, p[name]) for name in "qkv")
    if kind == "scaled_attention":
        q = q * 2 / q.shape[-1] ** 0.5
    if kind == "rotary":
        q, k = rotated(q), rotated(k)
    if kind == "cached":
        k, v = cached(k), cached(v)
    y = attended(q, k, v, causal=kind == "causal")
    return jnp.einsum("bthe,hed->btd", y, p["out"])


def fused(p, x):
    """Attend with queries, keys and values that are columns of one kernel."""
    heads, size, _ = p["out"].shape
    y = (x @ p["qkv"]).reshape(*x.shape[:-1], 3, heads, size)
    y = attended(*jnp.moveaxis(y, 2, 0))
    return jnp.einsum("bthe,hed->btd", y, p["out"])


def grouped_queries(p, x):
    """Attend with several queries to each key, as grouped-query attention does."""
    q = jnp.einsum("btd,dhge->bthge", x, p["q"])
    k, v = (jnp.einsum("btd,dhe->bthe", x, p[name]) for name in "kv")
    weights = jax.nn.softmax(jnp.einsum("bthge,bshe->bhgts", q, k) / 2)
    return jnp.einsum("bhgts,bshe,hged->btd", weights, v, p["out"])


def over_time(step, x, *state):
    """Scan a recurrent cell along the second axis of a batch of sequences."""
    _, h = lax.scan(step, state, jnp.swapaxes(x, 0, 1))
    return jnp.swapaxes(h, 0, 1)


def recurrent(p, x, act, kind):
    """Run a simple recurrent network, a GRU or an LSTM."""
    zeros = jnp.zeros((len(x), len(p["recurrent"])))

    def rnn(state, x):
        h = act(dense(p, x) + state[0] @ p["recurrent"])
        return (h,), h

    def gru(state, x):
        (h,) = state
        from_x, from_h = (
            jnp.split(y, 3, axis=-1) for y in (dense(p, x), h @ p["recurrent"])
        )
        z, r = (jax.nn.sigmoid(a + b) for a, b in zip(from_x[:2], from_h, strict=False))
        h = (1 - z) * jnp.tanh(from_x[2] + r * from_h[2]) + z * h
        return (h,), h

    def lstm(state, x):
        h, c = state
        i, f, g, o = jnp.split(dense(p, x) + h @ p["recurrent"], 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    step = {"rnn": rnn, "gru": gru, "lstm": lstm}[kind]
    return over_time(step, x, *[zeros] * (2 if kind == "lstm" else 1))


def stack(p, x, act, counts=False):
    """Scan over residual blocks of one shape; also counting them, in the carry."""

    def block(carry, w):
        h, i = carry
        return (h + act(h @ w["up"]) @ w["down"], i + 1), None

    if counts:
        return lax.scan(block, (x, 0), p)[0][0]
    return lax.scan(lambda h, w: (block((h, 0), w)[0][0], None), x, p)[0]


def experts(p, x, act):
    """Add what experts make, times the softmax of a router over all of them."""
    y = act(jnp.einsum("...d,ndo->...no", x, p["kernel"]))
    return jnp.einsum("...n,...no->...o", jax.nn.softmax(x @ p["router"]), y)


def one_of_two(p, x, act, is_first):
    """Take one of two branches: a layer, or the sum of two."""
    first, second = act(dense(p["first"], x)), act(dense(p["second"], x))
    return lax.cond(is_first, lambda: first * 2, lambda: first + second)


def squeezed(p, x, act):
    """Multiply channels by a gate of their means over space."""
    means = x.mean((1, 2))
    gate = jax.nn.sigmoid(dense(p["down"], act(dense(p["up"], means))))
    return x * gate[:, None, None]


def pooled(x):
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return x.reshape(len(x), -1)


def pairs_pooled(x):
    """Take the larger of every two neighbouring units."""
    window = (*[1] * (x.ndim - 1), 2)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def dropped(x, key):
    keeps = jax.random.bernoulli(key, 0.5, x.shape)
    return jnp.where(keeps, x / 0.5, 0)


def graph(p, x, act):
    """Add to nodes what their neighbours send."""
    h = act(dense(p, x))
    return jnp.zeros_like(h).at[:, jnp.array([1, 2, 0, 1])].add(h)


COMPUTES: dict[str, Callable[..., Any]] = {
    "dense": lambda p, x, act: act(dense(p, x)),
    "depthwise": lambda p, x, act: act(dense(p, x)),
    "grouped": lambda p, x, act: act(dense(p, x)),
    "lora": lambda p, x, act: act(low_rank(p, x)),
    "lora_closed": lambda p, x, act: act(low_rank(p, x)),
    "residual": lambda p, x, act: x + branch(p, x, act),
    "gated": gated,
    "repeated": lambda p, x, act: lax.fori_loop(
        0, 3, lambda i, h: h + branch(p, h, act), x
    ),
    "concatenated": concatenated,
    "shuffled": lambda p, x, act: shuffled(concatenated(p, x, act)),
    "batch_norm": lambda p, x, act: act(batch_norm(p, x)),
    "layer_norm": lambda p, x, act: layer_norm(p, x),
    "rms_norm": lambda p, x, act: rms_norm(p, x),
    "group_norm": lambda p, x, act: group_norm(p, x),
    "pre_layer_norm": lambda p, x, act: x + branch(p, layer_norm(p["norm"], x), act),
    "pre_rms_norm": lambda p, x, act: x + branch(p, rms_norm(p["norm"], x), act),
    "sorted": lambda p, x, act: jnp.sort(x, axis=-1),
    "cumulative": lambda p, x, act: jnp.cumsum(x, axis=-1),
    "largest": lambda p, x, act: lax.top_k(x, 2)[0],
    "pairs_pooled": lambda p, x, act: pairs_pooled(x),
    "mean_gate": lambda p, x, act: x * x.mean(-1, keepdims=True),
    "experts": experts,
    "attention": lambda p, x, act: x + attention(p, x),
    "scaled_attention": lambda p, x, act: x + attention(p, x, "scaled_attention"),
    "rotary": lambda p, x, act: x + attention(p, x, "rotary"),
    "cached": lambda p, x, act: x + attention(p, x, "cached"),
    "causal": lambda p, x, act: x + attention(p, x, "causal"),
    "fused": lambda p, x, act: x + fused(p, x),
    "grouped_queries": lambda p, x, act: x + grouped_queries(p, x),
    "stack": stack,
    "counted_stack": lambda p, x, act: stack(p, x, act, counts=True),
    "rnn": lambda p, x, act: recurrent(p, x, act, "rnn"),
    "gru": lambda p, x, act: recurrent(p, x, act, "gru"),
    "lstm": lambda p, x, act: recurrent(p, x, act, "lstm"),
    "positions": lambda p, x, act: x + p["table"],
    "graph": graph,
    "written": lambda p, x, act: x.at[:, 1:].set(act(dense(p, x))[:, :-1]),
    "squeezed": squeezed,
    "embedding": lambda p, x, act: p["table"][x],
    "head": lambda p, x, act: dense(p, pooled(x) if x.ndim == 4 else x),
}


def run(layers: Sequence[Layer], params: Any, inputs: Any, key: Any = None) -> Any:
    """Compute a network; ``key`` is for dropout."""
    x = inputs
    for name, (kind, activation) in enumerate(layers):
        p, act = params.get(str(name), {}), ACTIVATIONS[activation]
        if kind == "dropout":
            x = dropped(x, jax.random.fold_in(key, name))
        elif kind == "one_of_two":
            x = one_of_two(p, x, act, inputs.sum() > 0)
        elif kind == "tied_head":
            x = (dense(p, x) if p else x) @ params["0"]["table"].T
        else:
            x = COMPUTES[kind](p, x, act)
    return x
