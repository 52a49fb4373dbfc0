"""Change each algorithm in one place, and see which recorded truth notices.

Every row below replaces one expression of the package by a plausible mistake, in a copy
of the tree, and runs the tests that compare with recorded trajectories and certified
minimisers there. A perturbation that no test catches would be a hole in the tests.

    python -m tests.transforms.perturbations > tests/transforms/perturbations.jsonl

writes a line for each, and exits with 1 if any survived. Not part of the default run.

An expression is found by the name of what it stands in and by its syntax tree: neither
layout, comments and brackets nor the file that holds it matter.
"""

import ast
import dataclasses
import functools
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRUTH = "tests/regularizers/test_truth.py"
METRIC = "tests/regularizers/test_group_metric.py"
RMDA = "tests/transforms/test_rmda_trajectories.py"
BASELINES = "tests/transforms/test_baseline_trajectories.py"
RIGL_LAWS = "tests/transforms/test_rigl.py"
RIGL = "tests/transforms/test_rigl_trajectories.py"
HEAL = "tests/transforms/test_heal.py"
LATENT = "tests/transforms/test_latent_trajectories.py"
LATENT_LAWS = "tests/transforms/test_latent.py"


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """One wrong expression."""

    mistake: str
    where: str  # function, method, class or constant of the package that it stands in
    right: str
    wrong: str
    tests: tuple[str, ...]


def _caught_by(*tests: str):
    def perturb(mistake: str, where: str, right: str, wrong: str) -> Perturbation:
        return Perturbation(mistake, where, right, wrong, tests)

    return perturb


_metric = _caught_by(TRUTH, METRIC, BASELINES)
_gradient = _caught_by(TRUTH, BASELINES)
_rmda = _caught_by(RMDA)
_baseline = _caught_by(BASELINES)
_latent = _caught_by(LATENT, LATENT_LAWS)
_rigl = _caught_by(RIGL)
# Slots are reset where weights grow: only what couples weights, like clipping, sees it.
_seen = _caught_by(RIGL, RIGL_LAWS)
_heal = _caught_by(HEAL)

PERTURBATIONS = [
    # --- the metric prox: d_prox_truth, c_proxssi, the subproblems of b_ramda_repo ---
    _metric("too few steps", "MAX_STEPS", "16", "1"),
    _metric("too few Newton steps", "_NEWTON_STEPS", "12", "2"),
    _metric(
        "stops at the first step",
        "root_step",
        "left > jnp.finfo(k.dtype).eps",
        "left > 1e7 * jnp.finfo(k.dtype).eps",
    ),
    _metric(
        "bracket forgotten",
        "root_step",
        "jnp.clip(r * (1 + s), low, high)",
        "r * (1 + s)",
    ),
    _metric(
        "slope without the level",
        "_tangent",
        "dk / safe * by_level",
        "0 * by_level",
    ),
    _metric(
        "level without the penalty's slope",
        "as_group_lasso",
        "level * slope.slope",
        "level",
    ),
    _metric(
        "threshold of z, not of d z",
        "_solve",
        "jnp.sqrt(b2) <= k",
        "jnp.sqrt(z2) <= k",
    ),
    _metric(
        "curvature of the other sign",
        "_concave_metric_prox",
        "groups.each(jnp.add, d, curvature)",
        "groups.each(jnp.subtract, d, curvature)",
    ),
    _metric(
        "the centre never wins beyond the knee",
        "_concave_metric_prox",
        "convex | (loss > flat)",
        "convex",
    ),
    _metric(
        "norm without the metric in the root",
        "minimiser",
        "d / (d + shift)",
        "1 / (1 + shift)",
    ),
    _gradient(
        "step twice the stable one",
        "proximal_gradient",
        "1.0 if convex else 0.5",
        "2.0 if convex else 1.0",
    ),
    _gradient("level without the step", "proximal_gradient", "theta * t", "t"),
    # --- RMDA: a_rmda_official ---
    _rmda(
        "sum not divided by sqrt(t)",
        "_rmda_update",
        "jnp.sqrt(1 - 1 / t.astype(eta.dtype))",
        "1 - 1 / t.astype(eta.dtype)",
    ),
    _rmda(
        "anchor not renewed", "_rmda_update", "renewed(anchor, w, restart)", "anchor"
    ),
    _rmda(
        "no restart",
        "_rmda_update",
        "(state.stage_count == 0) | restart",
        "state.stage_count == 0",
    ),
    _rmda("averaging left out", "_rmda_update", "scale(c, x - w)", "x - w"),
    _rmda(
        "growing step left out",
        "_rmda_update",
        "prox_each(rules, *problem, tau, lam)",
        "prox_each(rules, *problem, eta, lam)",
    ),
    # --- RAMDA: b_ramda_repo R_RAMDA_*, E_RAMDA_* ---
    _baseline(
        "square root for the cube root", "_metric", "cube_root(u)", "jnp.sqrt(u)"
    ),
    _baseline(
        "weights without sqrt(t)",
        "_ramda_update",
        "eta * jnp.sqrt(t.astype(eta.dtype))",
        "eta + 0 * t",
    ),
    _baseline(
        "squares unweighted",
        "_ramda_update",
        "scale(s, jnp.square(g))",
        "jnp.square(g)",
    ),
    _baseline(
        "squares kept over a restart",
        "_ramda_update",
        "so_far(u)",
        "u",
    ),
    _baseline(
        "alpha kept over a restart",
        "_ramda_update",
        "so_far(state.weight_sum)",
        "state.weight_sum",
    ),
    _baseline(
        "eps not decayed",
        "ramda",
        "_decay(eps_decay, restarts, state.count)",
        "_decay(1.0, restarts, state.count)",
    ),
    _baseline(
        "anchor not renewed", "_ramda_update", "renewed(anchor, w, restart)", "anchor"
    ),
    _baseline("averaging left out", "_ramda_update", "scale(c, x - w)", "x - w"),
    # --- ProxSGD: R_ProxSGD_*, f_proxsgd_keras ---
    _baseline(
        "first average undamped",
        "_proxsgd_update",
        "moving_average(m, g, rho)",
        "(1 - rho) * m + g",
    ),
    _baseline(
        "threshold without the learning rate",
        "_proxsgd_update",
        "prox_each(rules, center, (w, mu, etas), eta, lam)",
        "prox_each(rules, center, (w, mu, etas), jnp.ones_like(eta), lam)",
    ),
    _baseline(
        "metric uncorrected",
        "_adaptive_update",
        "r / correction.astype(r.dtype)",
        "r",
    ),
    _baseline(
        "eps inside the root",
        "_adaptive_update",
        "jnp.sqrt(r / correction.astype(r.dtype)) + delta.astype(r.dtype)",
        "jnp.sqrt(r / correction.astype(r.dtype) + delta.astype(r.dtype))",
    ),
    _baseline("full step", "_adaptive_update", "scale(step, x - w)", "x - w"),
    _baseline(
        "schedule begun one later",
        "_authors_averaging",
        "jnp.asarray(count, float) + 4.0",
        "jnp.asarray(count, float) + 5.0",
    ),
    # --- ProxGen: R_ProxAdamW_* ---
    _baseline(
        "first moment uncorrected", "_proxgen_update", "eta / (1 - now.b1**t)", "eta"
    ),
    _baseline(
        "metric uncorrected",
        "_proxgen_update",
        "jnp.sqrt(1 - now.b2**t)",
        "jnp.ones_like(now.b2)",
    ),
    _baseline(
        "decay coupled to nothing",
        "_proxgen_update",
        "1 - eta * now.weight_decay",
        "1 - now.weight_decay",
    ),
    _baseline(
        "amsgrad forgets",
        "_proxgen_update",
        "jax.tree.map(jnp.maximum, nu_max, nu)",
        "nu",
    ),
    _baseline(
        "threshold without the learning rate",
        "_proxgen_update",
        "metric_prox_each(rules, *problem, eta, lam, start=w, **options)",
        "metric_prox_each(rules, *problem, eta / eta, lam, start=w, **options)",
    ),
    _baseline(
        "second moment of the first's weight",
        "AdamScalars",
        "average(self.b2, v, jnp.square(g))",
        "self.b2 * v + (1 - self.b1) * jnp.square(g)",
    ),
    # --- ProxSSI: c_proxssi ---
    _baseline(
        "metric corrected",
        "_proxssi_update",
        "jnp.sqrt(v)",
        "jnp.sqrt(v / (1 - now.b2**t).astype(v.dtype))",
    ),
    _baseline(
        "rate uncorrected", "_proxssi_update", "bias_correction", "not bias_correction"
    ),
    _baseline(
        "decay before the step",
        "_proxssi_update",
        "scale(kept, w - scale(corrected, m) / metric)",
        "scale(kept, w) - scale(corrected, m) / metric",
    ),
    _baseline(
        "corrected rate in the threshold",
        "_proxssi_update",
        "metric_prox_each(rules, *problem, eta, lam, start=w)",
        "metric_prox_each(rules, *problem, corrected, lam, start=w)",
    ),
    # --- RigL: e_jaxpruner_f32, e_jaxpruner_f64 ---
    _rigl(
        "no cosine",
        "Masks",
        "value / 2 * (1 + jnp.cos(jnp.pi * t / self.end_step))",
        "value",
    ),
    _rigl(
        "counts rounded down",
        "_amounts",
        "jnp.round(n_flags.astype(fraction.dtype) * (1 - fraction))",
        "jnp.floor(n_flags.astype(fraction.dtype) * (1 - fraction))",
    ),
    _rigl(
        "just dropped not eligible",
        "_growing",
        "_scores_among(score, ~kept)",
        "_scores_among(score, ~(kept | mask))",
    ),
    _rigl(
        "dropped by gradient, not by weight",
        "in_turn",
        "_staying(leaf.mask, leaf.w)",
        "_staying(leaf.mask, leaf.score)",
    ),
    _rigl(
        "one rewiring late",
        "Masks",
        "count <= self.end_step",
        "count < self.end_step",
    ),
    _rigl("ERK by the product", "_erk", "sum(shape)", "max(shape)"),
    _rigl(
        "slots of grown weights kept",
        "_state_after_rewiring",
        "jnp.where(flag, fresh, old)",
        "old",
    ),
    _rigl(
        "all slots reset",
        "_state_after_rewiring",
        "jnp.where(flag, fresh, old)",
        "fresh",
    ),
    _rigl(
        "weights step while masks move",
        "rigl",
        "jnp.where(due, jnp.zeros_like(d), d)",
        "d",
    ),
    _seen(
        "optimizer sees dense gradients", "rigl", "masked(masks, updates)", "updates"
    ),
    # --- healing: the same on the support alone ---
    _heal(
        "gradients of frozen entries", "_Phases", "within(masks, updates)", "updates"
    ),
    _heal("frozen entries move", "_Phases", "within(masks, delta)", "delta"),
    _heal(
        "stops short of the iterate",
        "_Phases",
        "_to_the_iterate(method_state, self.regularizer, params, delta)",
        "delta",
    ),
    _heal(
        "optimizer starts at the first params",
        "_Phases",
        "self.optimizer.init(optax.apply_updates(params, last))",
        "optimizer_state",
    ),
    _heal(
        "iterate before there is one",
        "_to_the_iterate",
        "jnp.where(begun, x - w, d)",
        "x - w",
    ),
    _heal(
        "entries frozen inside of active groups",
        "MagnitudePenalty",
        "self.geometry.support_mask(x)",
        "jax.tree.map(lambda x: x != 0, x)",
    ),
    # --- latent weights: PAT, the normal map, linearized Bregman ---
    _latent(
        "gamma before it grows",
        "LatentMethod",
        "prox_each(rules, *problem, gamma, lam)",
        "prox_each(rules, *problem, state.gamma, lam)",
    ),
    _latent(
        "gamma stands while no prox is taken",
        "LatentMethod",
        "self.phases.has_begun(count)",
        "self.phases.is_due(count)",
    ),
    _latent(
        "pulled from the latent weights that moved",
        "LatentMethod",
        "new - scale(share, z - x)",
        "new - scale(share, new - x)",
    ),
    _latent(
        "the inner optimizer sees the params",
        "_inner_update",
        "treedef.unflatten(leaves.latent)",
        "treedef.unflatten(leaves.params)",
    ),
    _latent("no warm-up", "Phases", "count >= self.start_step", "count >= 0"),
    _latent(
        "every how many since the beginning",
        "Phases",
        "(count - self.start_step) % self.prox_every",
        "count % self.prox_every",
    ),
    _latent(
        "params between two proxes are the latent weights",
        "LatentMethod",
        "jnp.where(begun, x + (new - z), new)",
        "new",
    ),
    _latent(
        "frozen from the latent weights",
        "LatentMethod",
        "jnp.where(last, x, z)",
        "z",
    ),
    _latent(
        "frozen weights move",
        "LatentMethod",
        "within(masks, u)",
        "u",
    ),
    _latent(
        "frozen weights are in the momentum",
        "LatentMethod",
        "within(masks, old.grads)",
        "old.grads",
    ),
    _latent(
        "latent weights begin at the params",
        "LatentMethod",
        "gamma * evaluate(self.strength, count)",
        "0 * gamma",
    ),
    _latent(
        "subgradient of one side",
        "_subgradient",
        "(a - b) / 2",
        "a",
    ),
]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an expression stands in the package."""

    module: str
    start: int  # offsets in the bytes of the file
    end: int


def find(perturbation: Perturbation, root: Path) -> Place:
    """Return where the right expression stands, which must be one place.

    Raises:
      ValueError: the package has no such name, or the expression is not once in it.
    """
    wanted = ast.unparse(ast.parse(perturbation.right, mode="eval"))
    named = [
        (path, source, node)
        for path, source, tree in _modules(root)
        for name, node in _definitions(tree)
        if name == perturbation.where
    ]
    places = {
        Place(path.relative_to(root).as_posix(), *_span(source, expression))
        for path, source, node in named
        for expression in ast.walk(node)
        if isinstance(expression, ast.expr) and ast.unparse(expression) == wanted
    }
    if len(places) != 1:
        raise ValueError(
            f"{perturbation.where!r} must hold {perturbation.right!r} once, found it "
            f"{len(places)} times in {len(named)} definitions. Bring the table up to "
            "date."
        )
    return places.pop()


def apply(perturbation: Perturbation, root: Path) -> None:
    """Change one expression of a tree."""
    place = find(perturbation, root)
    path = root / place.module
    source = path.read_bytes()
    wrong = f"({perturbation.wrong})".encode()
    _ = path.write_bytes(source[: place.start] + wrong + source[place.end :])


@functools.cache
def _modules(root: Path) -> list[tuple[Path, bytes, ast.Module]]:
    paths = sorted((root / "rmda_jax").rglob("*.py"))
    return [(p, p.read_bytes(), ast.parse(p.read_bytes())) for p in paths]


def _definitions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Yield name and node of the functions, classes and constants of a module."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value


def _span(source: bytes, node: ast.expr) -> tuple[int, int]:
    """Return where an expression starts and ends in the bytes of its file."""
    lines = source.splitlines(keepends=True)
    offset = lambda line, column: sum(map(len, lines[: line - 1])) + column
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return (
        offset(node.lineno, node.col_offset),
        offset(node.end_lineno, node.end_col_offset),
    )


def catch(perturbation: Perturbation) -> list[str]:
    """Return the first tests that fail in a perturbed copy of the tree, up to three."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("rmda_jax", "tests", "examples", "pyproject.toml"):
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, root / name)
        apply(perturbation, root)
        options = ["-q", "-rfE", "-p", "no:cacheprovider", "--maxfail=3"]
        command = [sys.executable, "-m", "pytest", *options]
        run = subprocess.run(
            [*command, *perturbation.tests], cwd=root, capture_output=True, text=True
        )
    if run.returncode not in (0, 1):
        raise RuntimeError(run.stdout[-2000:] + run.stderr[-2000:])
    return re.findall(r"^(?:FAILED|ERROR) (\S+)", run.stdout, re.MULTILINE)


def main() -> None:
    """Run every perturbation, or those with the given words in where they stand."""
    survived = 0
    for perturbation in PERTURBATIONS:
        if not all(word in perturbation.where for word in sys.argv[1:]):
            continue
        caught = catch(perturbation)
        survived += not caught
        line = {
            "where": perturbation.where,
            "mistake": perturbation.mistake,
            "caught_by": caught,
        }
        print(json.dumps(line), flush=True)
    sys.exit(survived > 0)


if __name__ == "__main__":
    main()
