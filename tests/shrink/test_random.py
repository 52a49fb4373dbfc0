"""Random small networks with random zeros: what shrinks computes the same.

The generator keeps book of the units that it makes, of what reads and what writes them.
By that book alone two lines say which units can go (`can_go`); the plan must find them
all. SHRINK_EXAMPLES=1000 in the environment tries that many networks.
"""

import dataclasses
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings, strategies as st
from jax import lax

from rmda_jax import shrink
from rmda_jax.shrink._rule_units import RuleGroups
from rmda_jax.specs._leaf_rules import active
from tests._x64 import float64

pytestmark = pytest.mark.costly

N_EXAMPLES = int(
    os.environ.get("SHRINK_EXAMPLES", "60" if "RMDA_LONG" in os.environ else "5")
)
INPUTS = {"vector": (3, 2), "sequence": (2, 4, 2), "image": (2, 4, 4, 2)}
ANYWHERE = ("dense", "residual", "gated", "concatenated", "batch_norm", "layer_norm")
ONLY_IN = {
    "vector": ("stack",),
    "sequence": ("attention", "rotary", "cached", "graph", "written", "stack"),
    "image": ("depthwise", "grouped"),
}
ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "sigmoid": jax.nn.sigmoid,  # the one that makes something of nothing
}


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


def cached(rows, size):
    """Write rows into a cache that is made here."""
    empty = jnp.zeros((len(rows), size, *rows.shape[2:]))
    return lax.dynamic_update_slice(empty, rows, (0, 1, 0, 0))


def rotated(x):
    """Rotate pairs of dimensions, by angles that grow along the sequence."""
    first, second = jnp.split(x, 2, axis=-1)
    angles = jnp.arange(x.shape[1])[:, None, None] / (1 + jnp.arange(first.shape[-1]))
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def attention(p, x, cache=None, rotary=False):
    q, k, v = (jnp.einsum("btd,dhe->bthe", x, p[name]) for name in "qkv")
    if rotary:
        q, k = rotated(q), rotated(k)
    if cache:
        k, v = (cached(rows, cache) for rows in (k, v))
    weights = jax.nn.softmax(jnp.einsum("bthe,bshe->bhts", q, k) / 2)
    return jnp.einsum("bhts,bshe,hed->btd", weights, v, p["out"])


def normalized(p, x, mean, variance):
    return (x - mean) * lax.rsqrt(variance + 1e-3) * p["scale"] + p["shift"]


def shuffled(x, groups=2):
    """Interleave groups of channels."""
    return x.reshape(*x.shape[:-1], groups, -1).swapaxes(-1, -2).reshape(x.shape)


def pooled(x):
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return x.reshape(len(x), -1)


def run(layers, params, x):
    """Compute a network; all sizes are those of its params."""
    for name, (kind, activation) in enumerate(layers):
        p, act = params[str(name)], ACTIVATIONS[activation]
        match kind:
            case "dense" | "depthwise" | "grouped":
                x = act(dense(p, x))
            case "residual":
                x = x + dense(p["down"], act(dense(p["up"], x)))
            case "gated":
                x = dense(p["down"], act(dense(p["gate"], x)) * dense(p["up"], x))
            case "concatenated":
                x = jnp.concatenate([x, act(dense(p, x))], axis=-1)
            case "shuffled":
                x = shuffled(jnp.concatenate([x, act(dense(p, x))], axis=-1))
            case "batch_norm":
                x = act(normalized(p, x, p["mean"], jnp.square(p["deviation"])))
            case "layer_norm":
                mean, variance = (f(x, -1, keepdims=True) for f in (jnp.mean, jnp.var))
                x = normalized(p, x, mean, variance)
            case "attention":
                x = x + attention(p, x)
            case "rotary":
                x = x + attention(p, x, rotary=True)
            case "cached":
                x = x + attention(p, x, cache=7)
            case "stack":
                layer = lambda h, w, act=act: (
                    h + act(h @ w["up"]) @ w["down"],
                    None,
                )
                x, _ = lax.scan(layer, x, p)
            case "graph":
                h = act(dense(p, x))
                x = jnp.zeros_like(h).at[:, jnp.array([1, 2, 0, 1])].add(h)
            case "written":
                x = x.at[:, 1:].set(act(dense(p, x))[:, :-1])
            case "head":
                x = dense(p, pooled(x) if x.ndim == 4 else x)
    return x


@dataclasses.dataclass(eq=False)
class Hidden:
    """A set of units; places are (leaf, axis, positions of shape (units, k))."""

    size: int
    writes: list = dataclasses.field(default_factory=list)
    reads: list = dataclasses.field(default_factory=list)
    keeps_zero: bool = True
    is_known: bool = True  # to be cut one by one, as the book has them
    by_program: bool = False  # only a program can do without


class Line(list):
    """Sets of units along an axis; places say where each unit lies, set after set."""

    def __init__(self, sets, places=None):
        super().__init__(sets)
        size = sum(hidden.size for hidden in sets)
        self.places = np.arange(size) if places is None else places

    def __add__(self, other):
        places = [self.places, len(self.places) + other.places]
        return Line([*self, *other], np.concatenate(places))

    def shuffled(self):
        moved = shuffled(np.arange(len(self.places)))
        return Line(self, np.argsort(moved)[self.places])


class Book:
    """Builds a network, layer by layer, and keeps book of its units."""

    def __init__(self, family):
        self.family = family
        self.layers, self.shapes, self.sets = [], {}, []
        self.here = Line([Hidden(INPUTS[family][-1], is_known=False)])

    def __repr__(self):
        return f"{self.family}: {self.layers} {self.shapes}"

    @property
    def width(self):
        return sum(hidden.size for hidden in self.here)

    def new(self, size):
        self.sets.append(Hidden(size))
        return Line(self.sets[-1:])

    def note(self, what, leaf, axis, units, blocks=1):
        """Note that a leaf has an axis of these units, in some blocks."""
        starts = np.cumsum([0, *(hidden.size for hidden in units)])
        for hidden, start in zip(units, starts, strict=False):
            positions = units.places[start : start + hidden.size, None]
            positions = positions + starts[-1] * np.arange(blocks)
            getattr(hidden, what).append((leaf, axis, positions))

    def vectors(self, name, leaves, writing):
        for leaf in leaves.split():
            self.shapes[f"{name}/{leaf}"] = (self.width,)
            if leaf in writing:
                self.note("writes", f"{name}/{leaf}", 0, self.here)

    def dense(self, name, bias, out, window=()):
        n_out = sum(hidden.size for hidden in out)
        self.shapes[f"{name}/kernel"] = (*window, self.width, n_out)
        self.note("reads", f"{name}/kernel", len(window), self.here)
        self.note("writes", f"{name}/kernel", len(window) + 1, out)
        if bias:
            self.shapes[f"{name}/bias"] = (n_out,)
            self.note("writes", f"{name}/bias", 0, out)

    def activate(self, units, activation):
        for hidden in units:
            hidden.keeps_zero &= activation != "sigmoid"

    def add(self, kind, width, activation, bias):
        name, before = str(len(self.layers)), self.here
        window = (3, 3) if self.family == "image" else ()
        if kind == "grouped" and (self.width % 2 or width % 2):
            kind = "dense"
        self.layers.append((kind, activation))
        match kind:
            case "dense" | "graph" | "concatenated" | "shuffled" | "written":
                out = before if kind == "written" else self.new(width)
                self.dense(name, bias, out, window)
                self.activate(out, activation)
                joins = kind in ("concatenated", "shuffled")
                self.here = before + out if joins else out
                if kind == "shuffled":
                    self.here = self.here.shuffled()
            case "residual" | "gated":
                inner = self.new(width)
                self.dense(f"{name}/up", bias, inner, window)
                if kind == "gated":
                    self.dense(f"{name}/gate", bias, inner, window)
                else:
                    self.activate(inner, activation)
                self.here = inner
                out = self.new(width) if kind == "gated" else before
                self.dense(f"{name}/down", bias, out, window)
                self.here = out
            case "batch_norm":
                self.vectors(name, "mean deviation scale shift", ("mean", "shift"))
                self.activate(self.here, activation)
            case "layer_norm":
                self.vectors(name, "scale shift", ())
                for hidden in self.here:
                    hidden.is_known = False
            case "attention" | "cached" | "rotary":
                self.attention(name, width, pairs=kind == "rotary")
            case "stack":
                self.stack(name, width, activation)
            case "depthwise":
                self.shapes[f"{name}/kernel"] = (3, 3, 1, self.width)
                self.vectors(name, "bias" if bias else "", ("bias",))
                self.activate(self.here, activation)
            case "grouped":
                self.shapes[f"{name}/kernel"] = (3, 3, self.width // 2, width)
                self.here = self.new(width)
                for hidden in before + self.here:
                    hidden.is_known = False

    def attention(self, name, width, pairs):
        heads, products, values = self.new(2), self.new(width), self.new(width)
        products[0].by_program = pairs
        for leaf, size in (("q", products), ("k", products), ("v", values)):
            blocks = 2 if pairs and leaf != "v" else 1
            self.shapes[f"{name}/{leaf}"] = (self.width, 2, blocks * width)
            self.note("reads", f"{name}/{leaf}", 0, self.here)
            self.note("writes", f"{name}/{leaf}", 2, size, blocks)
        self.shapes[f"{name}/out"] = (2, width, self.width)
        self.note("writes", f"{name}/v", 1, heads)
        self.note("reads", f"{name}/out", 0, heads)
        self.note("reads", f"{name}/out", 1, values)
        self.note("writes", f"{name}/out", 2, self.here)

    def stack(self, name, width, activation):
        """Add three layers of a scan; one goes when its last kernel is zero."""
        inner, layers = self.new(width), self.new(3)
        self.shapes[f"{name}/up"] = (3, self.width, width)
        self.shapes[f"{name}/down"] = (3, width, self.width)
        self.note("reads", f"{name}/up", 1, self.here)
        self.note("writes", f"{name}/up", 2, inner)
        self.note("reads", f"{name}/down", 1, inner)
        self.note("writes", f"{name}/down", 2, self.here)
        self.note("writes", f"{name}/down", 0, layers)
        self.activate(inner, activation)

    def head(self):
        name, blocks = str(len(self.layers)), 4 if self.family == "image" else 1
        self.layers.append(("head", "relu"))
        self.shapes[f"{name}/kernel"] = (blocks * self.width, 2)
        self.shapes[f"{name}/bias"] = (2,)
        self.note("reads", f"{name}/kernel", 0, self.here, blocks)

    def params(self, rng):
        """Draw params, zero for some units where they are read, or written, or both."""
        flat = {name: rng.normal(size=shape) for name, shape in self.shapes.items()}
        for hidden in self.sets:
            for places in (hidden.reads, hidden.writes, hidden.reads[:1]):
                zeros = rng.random(hidden.size) < 0.3
                for leaf, axis, positions in places:
                    np.moveaxis(flat[leaf], axis, 0)[positions[zeros]] = 0
        return flat


def can_go(hidden, flat):
    """Say by the book which units can go, whatever plan says."""
    zero = lambda places: np.all(
        [
            (np.moveaxis(flat[leaf], axis, 0)[positions] == 0)
            .reshape(hidden.size, -1)
            .all(1)
            for leaf, axis, positions in places
        ],
        axis=0,
    )
    nothing = hidden.keeps_zero & zero(hidden.writes)
    return nothing | zero(hidden.reads) if hidden.reads else nothing


def nested(flat):
    tree = {}
    for name, x in flat.items():
        *folders, leaf = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = x
    return tree


@st.composite
def books(draw):
    family = draw(st.sampled_from(sorted(INPUTS)))
    kinds = st.sampled_from(ANYWHERE + ONLY_IN[family])
    book = Book(family)
    layers = draw(st.lists(st.tuples(kinds, st.integers(2, 4)), max_size=4))
    for kind, width in [("dense", 4), *layers]:
        activation = draw(st.sampled_from(sorted(ACTIVATIONS)))
        book.add(kind, width, activation, bias=draw(st.booleans()))
    book.head()
    return book


# Networks are small as they come, and to look for a smaller one takes minutes.
@pytest.mark.filterwarnings("ignore:all units are zero:UserWarning")
@settings(max_examples=N_EXAMPLES, phases=[Phase.explicit, Phase.generate])
@given(book=books(), seed=st.integers(0, 2**16))
def test_what_shrinks_computes_the_same_and_all_that_can_go_goes(book, seed):
    rng = np.random.default_rng(seed)
    flat = book.params(rng)
    with float64():
        fn = lambda params, x: run(book.layers, params, x)
        params = jax.tree.map(jnp.asarray, nested(flat))
        x = jnp.asarray(rng.normal(size=INPUTS[book.family]))
        plan = shrink.plan(fn, params, x)
        small = shrink.apply(plan, params)
        found = shrink.verify(fn, params, small, x, plan=plan)
    assert found.max_abs <= 1e-9 * found.scale
    check_all_that_can_go_goes(book, flat, plan)


def check_all_that_can_go_goes(book, flat, plan):
    """Compare what a plan keeps with what the book needs; one unit of a set stays."""
    for hidden in book.sets:
        if hidden.is_known and (plan.for_program or not hidden.by_program):
            leaf, axis, positions = hidden.writes[0]
            gone = ~np.isin(positions, plan.kept[leaf][axis]).all(axis=1)
            assert gone.sum() >= min(can_go(hidden, flat).sum(), hidden.size - 1), leaf


@pytest.mark.filterwarnings("ignore:all units are zero:UserWarning")
@pytest.mark.parametrize(
    "kind", ["cached", "graph", "written", "shuffled", "rotary", "stack"]
)
def test_programs_of_networks_of_a_kind(kind):
    book = Book("sequence")
    for name in ("dense", kind):
        book.add(name, 4, "relu", bias=True)
    book.head()
    rng = np.random.default_rng(0)
    flat = book.params(rng)
    with float64():
        fn = lambda params, x: run(book.layers, params, x)
        params = jax.tree.map(jnp.asarray, nested(flat))
        x = jnp.asarray(rng.normal(size=INPUTS[book.family]))
        plan = shrink.plan(fn, params, x, for_program=True)
        small_fn = shrink.program(plan, fn, params, x)
        wanted = jax.jit(fn)(params, x)
        error = np.abs(small_fn(shrink.apply(plan, params), x) - wanted).max()
    assert error <= 1e-12 * np.abs(wanted).max()
    check_all_that_can_go_goes(book, flat, plan)


@pytest.mark.long
@settings(max_examples=N_EXAMPLES, phases=[Phase.generate], deadline=None)
@given(
    book=books(),
    side=st.sampled_from(["consumers", "producers", "all", "depth"]),
    for_program=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_zero_groups_of_the_rules_go(book, side, for_program, seed):
    depth = side == "depth"
    side, for_program = ("consumers", True) if depth else (side, for_program)
    rng = np.random.default_rng(seed)
    flat = {name: rng.normal(size=shape) for name, shape in book.shapes.items()}
    x = rng.normal(size=INPUTS[book.family])
    fn = lambda params, x: run(book.layers, nested(params), x)
    with float64():
        try:
            spec = shrink.group_rules(
                fn, flat, x, side=side, for_program=for_program, depth=depth
            )
        except ValueError as error:  # the stream is under a layer norm; no branches
            if not re.search("no unit whose|no branch", str(error)):
                raise
            return
        rules = active(spec.resolve(flat))
        groups = RuleGroups.of(rules, flat)
        dead = rng.random(sum(groups.sizes)) < 0.5
        if not depth:  # one of each rule stays; of branches nothing need
            dead[np.cumsum((0, *groups.sizes[:-1]))] = False
        zeros = {name: (ids >= 0) & dead[ids] for name, ids in groups.ids.items()}
        pruned = flat | {name: np.where(z, 0, flat[name]) for name, z in zeros.items()}
        plan = shrink.plan(fn, pruned, x, for_program=for_program)
        small = shrink.program(plan, fn, pruned, x)
        wanted = fn(pruned, x)
        found = small(shrink.apply(plan, pruned), x)
    for name, z in zeros.items():
        z = np.broadcast_to(z, flat[name].shape)
        assert not z[np.ix_(*plan.kept[name])].any(), name
    assert np.abs(found - wanted).max() <= 1e-9 * np.abs(wanted).max()
