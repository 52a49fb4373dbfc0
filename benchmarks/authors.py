"""The same steps in the authors' PyTorch code, beside ours.

    git clone https://github.com/zihsyuan1214/rmda
    git clone https://github.com/ismoptgroup/RAMDA
    python -m benchmarks.authors --checkout rmda RAMDA

Nothing of theirs is in this repository: their optimizers are imported from the clones,
and given parameters of the same shapes, in PyTorch's layout. Where both have a method
its row tells how many times theirs ours takes.
"""

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import jax
import numpy as np
import tyro

import rmda_jax as rj
from benchmarks._problems import OPTIMIZERS, STRENGTH, fill, shapes, size
from benchmarks._programs import Stepper
from benchmarks._rows import Options, publish
from benchmarks._timing import Contestant, Referee, Row, Times
from benchmarks._torch import device, find_torch, parameters, waiting

NAME = "authors"
COLUMNS = {
    "what": "",
    "problem": "",
    "theirs": "",
    "milliseconds": ".2f",
    "authors_milliseconds": ".2f",
    "times_authors": ".3f",
    "times_authors_iqr": ".3f",
}
RMDA_FILES = Path("RMDA/Optimizer/rmda.py"), Path("RMDA/ProxFn/prox_fns.py")
RAMDA_FILES = Path("Core/optimizer.py"), Path("Core/solvers.py")
NUCLEAR = (2048, 512)

AS_RELEASED = "as released"
TO_THE_CAP = "100 iterations"
RAMDA_PACKAGE = "of the RAMDA package"
# From parameters, an optimizer of theirs; by the name of ours, and the form of theirs.
Starters = dict[tuple[str, str], Callable[[list[Any]], Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Options):
    """Measure the optimizer steps of the authors' code, and ours."""

    checkout: tuple[Path, ...]
    """Clones of the authors' repositories: rmda, RAMDA, or both."""
    network: Literal["resnet50", "vgg19", "lenet5", "synthetic"] = "resnet50"
    width: int = 512
    """Channels of the synthetic network."""
    slow_rounds: int = 3
    """Rounds for the methods that solve a subproblem, seconds a step in their code."""
    nuclear: tuple[int, int] = NUCLEAR
    """Shape of the matrix whose nuclear norm is shrunk."""


@dataclasses.dataclass(frozen=True)
class Theirs:
    """What the clones have: steps without and with a subproblem, and a prox."""

    fast: Starters
    slow: Starters
    nuclear: Callable[..., Any] | None


def find(torch: Any, checkouts: Sequence[Path]) -> Theirs:
    """Import what the clones have."""
    fast: Starters = {}
    slow: Starters = {}
    nuclear = None
    for folder in checkouts:
        if all((folder / file).exists() for file in RMDA_FILES):
            fast |= _rmda(torch, folder)
        elif all((folder / file).exists() for file in RAMDA_FILES):
            quick, slow, nuclear = _ramda(torch, folder)
            fast |= quick
        else:
            raise SystemExit(
                f"{folder} is no clone of github.com/zihsyuan1214/rmda, which has "
                f"{RMDA_FILES[0]}, nor of github.com/ismoptgroup/RAMDA, which has "
                f"{RAMDA_FILES[1]}."
            )
    return Theirs(fast, slow, nuclear)


def measure(config: Config) -> Iterator[Row]:
    """Return what a step costs here and there."""
    torch = find_torch()
    if torch is None:
        raise SystemExit("The authors' code needs PyTorch: pip install torch.")
    theirs = find(torch, config.checkout)
    referee, tree = config.referee(), shapes(config.network, config.width)
    params, grads = fill(tree, seed=0), fill(tree, seed=1, scale=2e-3)
    common = {"problem": config.network, "parameters": size(params)}
    races = (theirs.fast, config.rounds), (theirs.slow, config.slow_rounds)
    for starters, rounds in races:
        contestants: dict[str, Contestant] = {
            name: Stepper(OPTIMIZERS[name](), params, grads) for name, _ in starters
        }
        for (name, form), start in starters.items():
            optimizer = start(parameters(torch, params, grads))
            contestants[_their(name, form)] = waiting(torch, optimizer.step)
        times = referee.race(contestants, rounds=rounds)
        for name, form in starters:
            yield _pair(times, name, form) | common
    if theirs.nuclear is not None:
        yield _nuclear(config, referee, torch, theirs.nuclear)


def _pair(times: Times, name: str, form: str) -> Row:
    """Return what ours takes, what theirs takes, and the ratio."""
    their = _their(name, form)
    return {
        "what": name,
        "theirs": form,
        **times.row(name, authors=their),
        "authors_milliseconds": 1e3 * times.median(their),
    }


def _nuclear(
    config: Config, referee: Referee, torch: Any, prox: Callable[..., Any]
) -> Row:
    x = np.random.default_rng(0).normal(size=config.nuclear).astype(np.float32)
    threshold = 0.05 * float(np.linalg.norm(x, 2))
    ours = jax.jit(lambda x: rj.nuclear_norm().prox(x, threshold))
    on_device = jax.device_put(x)
    theirs, buffer = (torch.from_numpy(x.copy()).to(device()) for _ in range(2))

    def shrink() -> None:
        buffer.copy_(theirs)
        prox(p=buffer, alpha=1.0, lambda_=threshold)

    name, form = "nuclear norm", AS_RELEASED
    contestants: dict[str, Contestant] = {
        name: lambda: ours(on_device),
        _their(name, form): waiting(torch, shrink),
    }
    problem = "x".join(map(str, config.nuclear))
    return _pair(referee.race(contestants), name, form) | {"problem": problem}


def _their(name: str, form: str) -> str:
    return f"authors' {name}, {form}"


def _rmda(torch: Any, folder: Path) -> Starters:
    """Return RMDA of its own repository, which tells kernels by their dimensions."""
    optimizer, prox = (_module(folder / file) for file in RMDA_FILES)
    _accept_three_axes(torch)
    start = lambda prox: (
        lambda p: optimizer.RMDA(
            p, lr=0.1, momentum=0.1, lambda_=STRENGTH, prox_fn=prox
        )
    )
    return {
        ("rmda", AS_RELEASED): start(prox.prox_glasso),
        ("rmda, l1", AS_RELEASED): start(prox.prox_l1),
    }


def _ramda(torch: Any, folder: Path) -> tuple[Starters, Starters, Any]:
    """Return the optimizers of the RAMDA package: those without a solver, and with."""
    sys.path.insert(0, str(folder.resolve()))
    group, optimizer, prox, solvers = (
        importlib.import_module(f"Core.{name}")
        for name in ("group", "optimizer", "prox_fns", "solvers")
    )

    def grouped(parameters: list[Any]) -> Any:
        model = torch.nn.ParameterList(parameters)
        return group.group_model(model=model, name="ConvNet", lambda_=STRENGTH)

    def to_the_cap(**arguments: Any) -> Any:
        # A decrease is never less than this: it stops at `max_iters` alone.
        return solvers.pgd_solver_group_lasso(**arguments | {"rtol": -np.inf})

    make = lambda kind, **options: lambda p: kind(grouped(p), **options)
    fast = {
        ("rmda", RAMDA_PACKAGE): make(optimizer.RMDA, lr=0.1),
        ("proxsgd", AS_RELEASED): make(optimizer.ProxSGD, lr=0.1),
    }
    slow = {
        ("ramda", AS_RELEASED): make(optimizer.RAMDA, lr=0.01),
        ("ramda", TO_THE_CAP): make(optimizer.RAMDA, lr=0.01, solver=to_the_cap),
        ("proxgen", AS_RELEASED): make(optimizer.ProxAdamW, lr=1e-3),
    }
    return fast, slow, prox.prox_nuclear_norm


def _module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _accept_three_axes(torch: Any) -> None:
    """Let `torch.linalg.norm` take three axes, as it did when the code was written."""
    original, vector_norm = torch.linalg.norm, torch.linalg.vector_norm

    def norm(x: Any, *args: Any, dim: Any = None, **options: Any) -> Any:
        if isinstance(dim, tuple) and len(dim) > 2:
            return vector_norm(x, *args, dim=dim, **options)
        return original(x, *args, dim=dim, **options)

    torch.linalg.norm = norm


def main(args: Sequence[str] | None = None) -> None:
    """Print the table and save the lines."""
    config = tyro.cli(Config, args=args)
    publish(NAME, measure(config), COLUMNS, config.json)


if __name__ == "__main__":
    main()
