"""Networks of a book as modules of Flax's NNX and linen, Haiku and Equinox.

What a network computes is the same text for all, `computed`, of modules that each
framework makes. Frameworks have their own normalizations, Flax its own attention.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
from flax import linen, nnx

from tests.shrink._book import Book
from tests.shrink._networks import ACTIVATIONS

Made = tuple[Callable[..., Any], Any]
"""A function of params and inputs, and params of any values."""

FAMILIES = ("vector", "sequence")
EVERYWHERE = """dense residual gated concatenated layer_norm rms_norm group_norm
    pre_layer_norm pre_rms_norm""".split()


class Slot(NamedTuple):
    """Where a leaf of the book is in a framework's params."""

    leaf: str
    is_transposed: bool = False


class Module(NamedTuple):
    """A module to be made: its kind, and the shapes of its leaves."""

    kind: str
    shapes: dict[str, tuple[int, ...]]

    @property
    def n_in(self) -> int:
        return next(iter(self.shapes.values()))[0]

    @property
    def n_out(self) -> int:
        return self.shapes["kernel"][-1]


def modules_of(book: Book) -> dict[str, Module]:
    """Return the modules of a book by name; ``up`` of layer 1 is ``layer_1_up``."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in book.shapes.items():
        module, leaf = name.rsplit("/", 1)
        shapes.setdefault(module, {})[leaf] = shape
    found = {}
    for name, leaves in shapes.items():
        kind = book.layers[int(name.split("/")[0])].kind.removeprefix("pre_")
        kind = "dense" if "kernel" in leaves else kind
        found[module_name(name)] = Module(kind, leaves)
    return found


def module_name(name: str) -> str:
    return f"layer_{name}".replace("/", "_")


def computed(book: Book, modules: Mapping[str, Callable[..., Any]], x: Any) -> Any:
    """Compute a network of modules."""
    for i, (kind, activation) in enumerate(book.layers):
        act, of = ACTIVATIONS[activation], lambda name, i=i: modules[f"layer_{i}{name}"]
        match kind:
            case "dense":
                x = act(of("")(x))
            case "concatenated":
                x = jnp.concatenate([x, act(of("")(x))], axis=-1)
            case "residual":
                x = x + of("_down")(act(of("_up")(x)))
            case "gated":
                x = of("_down")(act(of("_gate")(x)) * of("_up")(x))
            case "pre_layer_norm" | "pre_rms_norm":
                x = x + of("_down")(act(of("_up")(of("_norm")(x))))
            case "scaled_attention":
                x = x + of("")(x)
            case _:  # norms and the head
                x = of("")(x)
    return x


def of_linen(book: Book) -> Made:
    def made(name: str, module: Module) -> Callable[..., Any]:
        match module.kind:
            case "dense":
                return linen.Dense(
                    module.n_out, "bias" in module.shapes, name=name, param_dtype=float
                )
            case "scaled_attention":
                _, heads, size = module.shapes["q"]
                return linen.MultiHeadDotProductAttention(
                    heads,
                    qkv_features=heads * size,
                    use_bias=False,
                    name=name,
                    param_dtype=float,
                )
            case "layer_norm":
                return linen.LayerNorm(name=name, param_dtype=float)
            case "rms_norm":
                return linen.RMSNorm(name=name, param_dtype=float)
            case "group_norm":
                return linen.GroupNorm(2, name=name, param_dtype=float)
        raise NotImplementedError(module.kind)

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            modules = {name: made(name, m) for name, m in modules_of(book).items()}
            return computed(book, modules, x)

    network = Network()
    x = jnp.zeros(book.input_shape)
    return network.apply, network.init(jax.random.key(0), x)


def of_nnx(book: Book) -> Made:
    rngs = nnx.Rngs(0)
    options = {"rngs": rngs, "param_dtype": jnp.float64}

    def made(module: Module) -> nnx.Module:
        n_in = module.n_in
        match module.kind:
            case "dense":
                has_bias = "bias" in module.shapes
                return nnx.Linear(n_in, module.n_out, use_bias=has_bias, **options)
            case "scaled_attention":
                _, heads, size = module.shapes["q"]
                return nnx.MultiHeadAttention(
                    heads,
                    n_in,
                    heads * size,
                    use_bias=False,
                    decode=False,
                    **options,
                )
            case "layer_norm":
                return nnx.LayerNorm(n_in, **options)
            case "rms_norm":
                return nnx.RMSNorm(n_in, **options)
            case "group_norm":
                return nnx.GroupNorm(n_in, 2, **options)
        raise NotImplementedError(module.kind)

    class Network(nnx.Module):
        def __init__(self):
            for name, module in modules_of(book).items():
                setattr(self, name, made(module))

        def __call__(self, x):
            return computed(book, vars(self), x)

    graph, params = nnx.split(Network())
    return lambda p, x: nnx.merge(graph, p)(x), params


def of_haiku(book: Book) -> Made:
    def made(name: str, module: Module) -> Callable[..., Any]:
        match module.kind:
            case "dense":
                return hk.Linear(module.n_out, "bias" in module.shapes, name=name)
            case "layer_norm":
                return hk.LayerNorm(-1, True, True, name=name)
            case "rms_norm":
                return hk.RMSNorm(-1, name=name)
            case "group_norm":
                return hk.GroupNorm(2, name=name)
        raise NotImplementedError(module.kind)

    def forward(x):
        modules = {name: made(name, m) for name, m in modules_of(book).items()}
        return computed(book, modules, x)

    network = hk.without_apply_rng(hk.transform(forward))
    return network.apply, network.init(jax.random.key(0), jnp.zeros(book.input_shape))


def of_equinox(book: Book) -> Made:
    key = jax.random.key(0)

    def made(module: Module) -> eqx.Module:
        n_in = module.n_in
        match module.kind:
            case "dense":
                return eqx.nn.Linear(
                    n_in, module.n_out, "bias" in module.shapes, key=key
                )
            case "layer_norm":
                return eqx.nn.LayerNorm(n_in)
            case "rms_norm":
                return eqx.nn.RMSNorm(n_in, use_bias=False)
            case "group_norm":
                return eqx.nn.GroupNorm(2, n_in)
        raise NotImplementedError(module.kind)

    network = {name: made(module) for name, module in modules_of(book).items()}
    params, static = eqx.partition(network, eqx.is_inexact_array)

    def fn(params, x):
        modules = eqx.combine(params, static)
        # Equinox's modules are of one vector.
        mapped = {
            name: jnp.vectorize(module, signature="(i)->(o)")
            for name, module in modules.items()
        }
        return computed(book, mapped, x)

    return fn, params


class Framework(NamedTuple):
    """A framework, and how it names the leaves of a book.

    Attributes:
      make: From a book to a function and params.
      kinds: The kinds of layers that it is tried with, beside those of all.
      slots: What comes after the name of the module, by the book's name of the leaf.
    """

    make: Callable[[Book], Made]
    kinds: tuple[str, ...]
    slots: Mapping[str, Slot]

    def slot(self, name: str) -> Slot:
        """Return where a leaf of the book is."""
        module, leaf = name.rsplit("/", 1)
        slot = self.slots[leaf]
        return slot._replace(leaf=f"{module_name(module)}/{slot.leaf}")


_FLAX = {
    "kernel": Slot("kernel"),
    "bias": Slot("bias"),
    "scale": Slot("scale"),
    "shift": Slot("bias"),
    "q": Slot("query/kernel"),
    "k": Slot("key/kernel"),
    "v": Slot("value/kernel"),
    "out": Slot("out/kernel"),
}
_HAIKU = {"kernel": "w", "bias": "b", "scale": "scale", "shift": "offset"}
_EQUINOX = {
    "kernel": Slot("weight", is_transposed=True),
    "bias": Slot("bias"),
    "scale": Slot("weight"),
    "shift": Slot("bias"),
}
FRAMEWORKS = {
    "linen": Framework(of_linen, ("scaled_attention",), _FLAX),
    "nnx": Framework(of_nnx, ("scaled_attention",), _FLAX),
    "haiku": Framework(of_haiku, (), {k: Slot(v) for k, v in _HAIKU.items()}),
    "equinox": Framework(of_equinox, (), _EQUINOX),
}
