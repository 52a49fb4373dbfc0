"""The kinds of layers of random networks, as the book has them.

Each function notes one kind: it takes the book, the name of the layer, a width, an
activation, and whether there are biases. What it computes is in `_networks`.
"""

from collections.abc import Callable, Sequence

import numpy as np

from tests.shrink._book import Book, blocks
from tests.shrink._networks import ACTIVATIONS, N_TOKENS, Layer

Note = Callable[[Book, str, int, str, bool], None]
KINDS: dict[str, Note] = {}
ANYWHERE = """dense lora lora_closed residual gated repeated concatenated shuffled
    batch_norm layer_norm rms_norm group_norm pre_layer_norm pre_rms_norm sorted
    cumulative largest pairs_pooled mean_gate experts one_of_two dropout""".split()
_SEQUENCE = """attention scaled_attention rotary cached causal fused grouped_queries
    graph written stack counted_stack rnn gru lstm positions""".split()
ONLY_IN = {
    "vector": ["stack", "counted_stack"],
    "sequence": _SEQUENCE,
    "tokens": _SEQUENCE,
    "image": ["depthwise", "grouped", "squeezed"],
}
IN_PAIRS = {"group_norm", "pairs_pooled", "grouped", "shuffled"}


def noting(*kinds: str) -> Callable[[Note], Note]:
    def register(fn: Note) -> Note:
        KINDS.update(dict.fromkeys(kinds, fn))
        return fn

    return register


@noting("dense", "graph")
def dense(book, name, width, activation, bias):
    out = book.new(width)
    book.dense(name, bias, out)
    book.activate(out, activation)
    book.here = out


@noting("concatenated", "shuffled")
def concatenated(book, name, width, activation, bias):
    before = book.here
    dense(book, name, width, activation, bias)
    book.here = before + book.here
    if book.layers[-1].kind == "shuffled":
        book.here = book.here.shuffled()
        book.happens(book.here, "stay", by="function")


@noting("written")
def written(book, name, width, activation, bias):
    book.dense(name, bias, book.here)
    book.activate(book.here, activation)


@noting("lora", "lora_closed")
def lora(book, name, width, activation, bias):
    """The base reads and makes the same units as the two factors."""
    ranks, out = book.new(2), book.new(width)
    book.dense(name, bias, out, window=False)
    book.shapes |= {f"{name}/a": (book.width, 2), f"{name}/b": (2, width)}
    book.note("read", book.here, (f"{name}/a", 0))
    book.note("write", ranks, (f"{name}/a", 1))
    book.note("read", ranks, (f"{name}/b", 0))
    book.note("write", out, (f"{name}/b", 1))
    if f"{name}/kernel" in book.closed:
        # Without `for_program` all that meets a closed-over array is frozen.
        for units in (book.here, out):
            book.happens(units, "stay", by="function")
    book.activate(out, activation)
    book.here = out


def branch(book, name, width, activation, bias, out, reads="read"):
    """Note what a residual block adds."""
    before, inner = book.here, book.new(width)
    book.dense(f"{name}/up", bias, inner, reads=reads)
    book.activate(inner, activation)
    book.here = inner
    book.dense(f"{name}/down", bias, out)
    book.here = before


@noting("residual")
def residual(book, name, width, activation, bias):
    branch(book, name, width, activation, bias, out=book.here)


@noting("gated")
def gated(book, name, width, activation, bias):
    inner, out = book.new(width), book.new(width)
    # The product of the gate and the other layer is zero if either is: the book asks
    # that of the other layer, as a gate may be 1/2 of nothing.
    book.dense(f"{name}/gate", bias, inner)
    book.happens(inner, "new")
    book.dense(f"{name}/up", bias, inner)
    book.here = inner
    book.dense(f"{name}/down", bias, out)
    book.here = out


@noting("repeated")
def repeated(book, name, width, activation, bias):
    """A block that is run again reads what it wrote."""
    inner = book.new(width)
    size = (3, 3) if book.family == "image" else ()
    book.shapes[f"{name}/down/kernel"] = (*size, width, book.width)
    book.note("write", book.here, (f"{name}/down/kernel", len(size) + 1))
    if bias:
        book.shapes[f"{name}/down/bias"] = (book.width,)
        book.note("write", book.here, (f"{name}/down/bias", 0))
    book.dense(f"{name}/up", bias, inner)
    book.activate(inner, activation)
    book.note("read", inner, (f"{name}/down/kernel", len(size)))


@noting("batch_norm")
def batch_norm(book, name, width, activation, bias):
    _, mean, _, shift = book.vectors(name, "deviation mean scale shift")
    for leaf in (mean, shift):
        book.note("write", book.here, leaf)
    book.activate(book.here, activation)


@noting("group_norm")
def group_norm(book, name, width, activation, bias):
    """Places in the groups are units if the channels are those of one layer."""
    layer_norm(book, name, width, activation, bias)
    if len(book.here) == 1:
        book.happens(book.here, "groups")
    else:
        book.happens(book.here, "stay", by="any")


@noting("layer_norm")
def layer_norm(book, name, width, activation, bias):
    """The mean is subtracted: a zero is none afterwards."""
    book.happens(book.here, "whole")
    book.note("moved", book.here, *book.vectors(name, "scale shift"))


@noting("rms_norm")
def rms_norm(book, name, width, activation, bias):
    _ = book.vectors(name, "scale")
    book.happens(book.here, "whole")


@noting("pre_layer_norm")
def pre_layer_norm(book, name, width, activation, bias):
    _ = book.vectors(f"{name}/norm", "scale shift")
    book.happens(book.here, "whole")
    branch(book, name, width, activation, bias, book.here, reads="read moved")


@noting("pre_rms_norm")
def pre_rms_norm(book, name, width, activation, bias):
    _ = book.vectors(f"{name}/norm", "scale")
    book.happens(book.here, "whole")
    branch(book, name, width, activation, bias, book.here)


@noting("sorted", "cumulative", "largest", "pairs_pooled")
def positions(book, name, width, activation, bias):
    """Positions afterwards are other units than before."""
    kind = book.layers[-1].kind
    sizes = {"largest": 2, "pairs_pooled": book.width // 2}
    book.happens(book.here, "whole")
    book.here = book.new(sizes.get(kind, book.width))
    book.happens(book.here, "stay", by="function")
    book.happens(book.here, "moved")


@noting("mean_gate")
def mean_gate(book, name, width, activation, bias):
    book.happens(book.here, "whole")


@noting("dropout")
def dropout(book, name, width, activation, bias):
    """Other bits would be drawn for fewer units."""
    book.needs_key = True
    book.happens(book.here, "stay", by="function")


@noting("experts")
def experts(book, name, width, activation, bias):
    each, out = book.new(3), book.new(width)
    book.shapes[f"{name}/router"] = (book.width, 3)
    book.shapes[f"{name}/kernel"] = (3, book.width, width)
    book.note("read", book.here, (f"{name}/router", 0))
    book.note("read", book.here, (f"{name}/kernel", 1))
    book.note("write", each, (f"{name}/router", 1))
    book.happens(each, "whole")
    if activation == "sigmoid":
        book.happens(each, "stay", by="any")
    book.note("read moved", each, (f"{name}/kernel", 0))
    book.note("write", out, (f"{name}/kernel", 2))
    book.activate(out, activation)
    book.here = out


@noting("one_of_two")
def one_of_two(book, name, width, activation, bias):
    out = book.new(width)
    for of_both in ("first", "second"):
        book.dense(f"{name}/{of_both}", bias, out)
    book.activate(out, activation)
    book.here = out


@noting("attention", "scaled_attention", "cached", "causal", "rotary")
def attention(book, name, width, activation, bias):
    heads, products, values = book.new(2), book.new(width), book.new(width)
    pairs = book.layers[-1].kind == "rotary"
    n = 2 if pairs else 1
    q, k, v, out = (f"{name}/{leaf}" for leaf in ("q", "k", "v", "out"))
    book.shapes |= {leaf: (book.width, 2, n * width) for leaf in (q, k)}
    book.shapes |= {v: (book.width, 2, width), out: (2, width, book.width)}
    for leaf in (q, k, v):
        book.note("read", book.here, (leaf, 0))
    # The function would make other frequencies, or take another root of their number.
    if pairs or book.layers[-1].kind == "scaled_attention":
        book.happens(products, "stay", by="function")
    book.note("write", products, (q, 2), (k, 2), where=blocks(width, *range(n)))
    book.happens(products, "read")
    book.note("write", values, (v, 2))
    book.note("write", heads, (v, 1))
    book.note("read", heads, (out, 0))
    book.note("read", values, (out, 1))
    book.note("write", book.here, (out, 2))


@noting("grouped_queries")
def grouped_queries(book, name, width, activation, bias):
    """Two heads of keys and values, each with two of queries."""
    heads, queries = book.new(2), book.new(2)
    products, values = book.new(width), book.new(width)
    q, k, v, out = (f"{name}/{leaf}" for leaf in ("q", "k", "v", "out"))
    book.shapes |= {q: (book.width, 2, 2, width), out: (2, 2, width, book.width)}
    book.shapes |= {leaf: (book.width, 2, width) for leaf in (k, v)}
    for leaf in (q, k, v):
        book.note("read", book.here, (leaf, 0))
    book.note("write", products, (q, 3), (k, 2))
    book.happens(products, "read")
    book.note("write", values, (v, 2))
    book.note("write", heads, (v, 1))
    book.note("read", heads, (out, 0))
    book.note("read moved", queries, (out, 1))
    book.note("read", values, (out, 2))
    book.note("write", book.here, (out, 3))


@noting("fused")
def fused(book, name, width, activation, bias):
    """Columns of one kernel: queries, keys, values; heads; dimensions."""
    heads = book.new(2)
    qkv, out = f"{name}/qkv", f"{name}/out"
    book.shapes |= {qkv: (book.width, 6 * width), out: (2, width, book.width)}
    book.note("read", book.here, (qkv, 0))
    of_values = lambda at: (4 + at[:, None]) * width + np.arange(width)
    book.note("write", heads, (qkv, 1), where=of_values)
    book.note("read", heads, (out, 0))
    book.note("write", book.here, (out, 2))


@noting("stack", "counted_stack")
def stack(book, name, width, activation, bias):
    """Three layers of a scan; one goes when its last kernel is zero."""
    inner, layers = book.new(width), book.new(3)
    up, down = f"{name}/up", f"{name}/down"
    book.shapes |= {up: (3, book.width, width), down: (3, width, book.width)}
    book.note("write", book.here, (down, 2))
    book.note("read", book.here, (up, 1))
    book.note("write", inner, (up, 2))
    book.activate(inner, activation)
    book.note("read", inner, (down, 1))
    book.note("read moved", layers, (down, 0))
    if book.layers[-1].kind == "counted_stack":
        book.happens(layers, "stay", by="any")


@noting("rnn", "gru", "lstm")
def recurrent(book, name, width, activation, bias):
    """A unit of the state is zero if its new value is, whatever the gates."""
    # How many blocks the kernels have, one for each gate; which makes the new value.
    n_blocks, new = {"rnn": (1, 0), "gru": (3, 2), "lstm": (4, 2)}[book.layers[-1].kind]
    state = book.new(width)
    leaves = {"kernel": (book.width, n_blocks * width)}
    leaves["recurrent"] = (width, n_blocks * width)
    if bias:
        leaves["bias"] = (n_blocks * width,)
    for leaf, shape in leaves.items():
        book.shapes[f"{name}/{leaf}"] = shape
        last = len(shape) - 1
        book.note("write", state, (f"{name}/{leaf}", last), where=blocks(width, new))
    if book.layers[-1].kind == "rnn":
        book.activate(state, activation)
    book.note("read", book.here, (f"{name}/kernel", 0))
    book.note("read", state, (f"{name}/recurrent", 0))
    book.here = state


@noting("positions")
def positional(book, name, width, activation, bias):
    book.shapes[f"{name}/table"] = (4, book.width)
    book.note("write", book.here, (f"{name}/table", 1))


@noting("depthwise")
def depthwise(book, name, width, activation, bias):
    book.shapes[f"{name}/kernel"] = (3, 3, 1, book.width)
    book.happens(book.here, "one stays")
    if bias:
        book.note("write", book.here, *book.vectors(name, "bias"))
    book.activate(book.here, activation)


@noting("grouped")
def grouped(book, name, width, activation, bias):
    """Channels of a group have one place each in the kernel: no unit is known."""
    width += width % 2
    book.shapes[f"{name}/kernel"] = (3, 3, book.width // 2, width)
    before, book.here = book.here, book.new(width)
    for units in (before, book.here):
        book.happens(units, "stay", by="any")
    book.note("write", book.here, (f"{name}/kernel", 3))


@noting("squeezed")
def squeezed(book, name, width, activation, bias):
    """The gate of a zero makes nothing of it."""
    inner = book.new(width)
    up, down = f"{name}/up/kernel", f"{name}/down/kernel"
    book.shapes |= {up: (book.width, width), down: (width, book.width)}
    book.note("read", book.here, (up, 0))
    book.note("write", inner, (up, 1))
    book.activate(inner, activation)
    book.note("read", inner, (down, 0))


@noting("embedding")
def embedding(book, name, width, activation, bias):
    book.here = book.embedded = book.new(width)
    book.shapes[f"{name}/table"] = (N_TOKENS, width)
    book.note("write", book.here, (f"{name}/table", 1))


@noting("head")
def head(book, name, width, activation, bias):
    n_blocks = 4 if book.family == "image" else 1
    book.shapes |= {f"{name}/kernel": (n_blocks * book.width, 2), f"{name}/bias": (2,)}
    where = blocks(book.width, *range(n_blocks))
    book.note("read", book.here, (f"{name}/kernel", 0), where=where)


@noting("tied_head")
def tied_head(book, name, width, activation, bias):
    """The table of the embedding makes logits, too."""
    if book.here is not book.embedded:
        book.happens(book.embedded, "new")
        book.dense(name, bias, book.embedded)
    book.note("read", book.embedded, ("0/table", 1))


def add(book: Book, kind: str, width: int, activation: str, bias: bool) -> None:
    """Add a layer; a dense one where its units are no pairs."""
    is_odd = book.width < 4 or book.width % 2 or width % 2
    kind = "dense" if kind in IN_PAIRS and is_odd else kind
    name = str(len(book.layers))
    book.layers.append(Layer(kind, activation))
    if kind == "lora_closed":
        book.closed.add(f"{name}/kernel")
    KINDS[kind](book, name, width, activation, bias)


def drawn(
    rng: np.random.Generator,
    kinds: Sequence[str] = tuple(KINDS),
    families: Sequence[str] = tuple(ONLY_IN),
) -> Book:
    """Draw a network, of one to three layers between the first one and the head."""
    family = str(rng.choice(families))
    is_text = family == "tokens"
    book = Book(family)
    possible = [kind for kind in ANYWHERE + ONLY_IN[family] if kind in kinds]
    chosen = rng.choice(possible, size=rng.integers(1, 4)).tolist()
    for kind in ["embedding" if is_text else "dense", *chosen]:
        # Few widths, so that what is compiled for one network serves another.
        width, activation = int(rng.choice([2, 4])), str(rng.choice(list(ACTIVATIONS)))
        add(book, kind, width, activation, bias=bool(rng.integers(2)))
    add(book, "tied_head" if is_text else "head", 2, "relu", bias=True)
    return book
