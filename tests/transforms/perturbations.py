"""Change each algorithm in one place, and see which recorded truth notices.

Every row below replaces one expression of the source by a plausible mistake, in a copy
of the tree, and runs the tests that compare with recorded trajectories and certified
minimisers there. A perturbation that no test catches would be a hole in the tests.

    python -m tests.transforms.perturbations > tests/transforms/perturbations.jsonl

writes a line for each, and exits with 1 if any survived. Not part of the default run.
"""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
TRUTH = "tests/regularizers/test_truth.py"
METRIC = "tests/regularizers/test_group_metric.py"
RMDA = "tests/transforms/test_rmda_trajectories.py"
RIVALS = "tests/transforms/test_rival_trajectories.py"
RIGL_LAWS = "tests/transforms/test_rigl.py"
RIGL = "tests/transforms/test_rigl_trajectories.py"


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """One wrong expression."""

    mistake: str
    module: str
    right: str
    wrong: str
    tests: tuple[str, ...]


def _in(module: str, *tests: str):
    def perturb(mistake: str, right: str, wrong: str) -> Perturbation:
        return Perturbation(mistake, f"rmda_jax/{module}.py", right, wrong, tests)

    return perturb


_secular = _in("regularizers/solvers/_group_norm", TRUTH, METRIC, RIVALS)
_metric = _in("regularizers/solvers/_metric_prox", TRUTH, METRIC, RIVALS)
_gradient = _in("regularizers/solvers/_proximal_gradient", TRUTH, RIVALS)
_rmda = _in("transforms/_rmda", RMDA)
_ramda = _in("transforms/_ramda", RIVALS)
_proxsgd = _in("transforms/_proxsgd", RIVALS)
_adaptive = _in("transforms/_proxsgd_adaptive", RIVALS)
_adam = _in("transforms/_adam", RIVALS)
_proxgen = _in("transforms/_proxgen", RIVALS)
_proxssi = _in("transforms/_proxssi", RIVALS)
_rigl = _in("transforms/_rigl", RIGL)
# Slots are reset where weights grow: only what couples weights, like clipping, sees it.
_seen = _in("transforms/_rigl", RIGL, RIGL_LAWS)
_masks = _in("transforms/_masks", RIGL)

PERTURBATIONS = [
    # --- the metric prox: d_prox_truth, c_proxssi, the subproblems of b_ramda_repo ---
    _secular("too few steps", "_MAX_STEPS = 16", "_MAX_STEPS = 1"),
    _secular("too few Newton steps", "_NEWTON_STEPS = 12", "_NEWTON_STEPS = 2"),
    _secular("stops at the first step", "jnp.any(left > ", "jnp.any(left > 1e7 * "),
    _secular("bracket forgotten", "jnp.clip(r * (1 + s), low, high)", "r * (1 + s)"),
    _secular("slope without the level", "- dk / safe *", "- 0 *"),
    _metric("level without the penalty's slope", "level * slope.slope\n", "level\n"),
    _secular(
        "threshold of z, not of d z", "(jnp.sqrt(b2) <= k)", "(jnp.sqrt(z2) <= k)"
    ),
    _metric(
        "curvature of the other sign",
        "groups.each(jnp.add, d, curvature)",
        "groups.each(jnp.subtract, d, curvature)",
    ),
    _metric(
        "the centre never wins beyond the knee", "(convex | (loss > flat))", "convex"
    ),
    _metric(
        "norm without the metric in the root", "d / (d + shift)", "1 / (1 + shift)"
    ),
    _gradient(
        "step twice the stable one",
        "(1.0 if convex else 0.5) /",
        "(2.0 if convex else 1.0) /",
    ),
    _gradient("level without the step", "prox(inner, theta * t)", "prox(inner, t)"),
    # --- RMDA: a_rmda_official ---
    _rmda(
        "sum not divided by sqrt(t)",
        "decay = jnp.sqrt(1 - 1 / t.astype(eta.dtype))",
        "decay = 1 - 1 / t.astype(eta.dtype)",
    ),
    _rmda(
        "anchor not renewed",
        "jnp.where(now.first, w_wide, anchor)",
        "jnp.where(now.t == -1, w_wide, anchor)",
    ),
    _rmda(
        "no restart",
        "(state.stage_count == 0) | restart",
        "(state.stage_count == 0) | (restart & False)",
    ),
    _rmda(
        "averaging left out",
        "(c.astype(wide) * (structured",
        "((0 * c + 1).astype(wide) * (structured",
    ),
    _rmda("growing step left out", "now.tau * now.lam", "now.eta * now.lam"),
    # --- RAMDA: b_ramda_repo R_RAMDA_*, E_RAMDA_* ---
    _ramda("square root for the cube root", "cube_root(u)", "jnp.sqrt(u)"),
    _ramda(
        "weights without sqrt(t)", "eta * jnp.sqrt(t.astype(eta.dtype))", "eta + 0 * t"
    ),
    _ramda("squares unweighted", "weight * jnp.square(g)", "jnp.square(g)"),
    _ramda("squares kept over a restart", "jnp.where(now.first, 0, u)", "u"),
    _ramda(
        "alpha kept over a restart",
        "jnp.where(first, 0, state.weight_sum)",
        "state.weight_sum",
    ),
    _ramda("eps not decayed", "eps_decay ** _n_past", "1.0 ** _n_past"),
    _ramda(
        "anchor not renewed",
        "jnp.where(now.first, w_wide, anchor)",
        "jnp.where(now.t == -1, w_wide, anchor)",
    ),
    _ramda(
        "averaging left out",
        "(c.astype(wide) * (structured",
        "((0 * c + 1).astype(wide) * (structured",
    ),
    # --- ProxSGD: R_ProxSGD_*, f_proxsgd_keras ---
    _proxsgd(
        "first average undamped", "(1 - rho_) * mu + rho_ * g", "(1 - rho_) * mu + g"
    ),
    _proxsgd("threshold without the learning rate", "eta_), eta * lam", "eta_), lam"),
    _adaptive(
        "metric uncorrected", "(nu + zero) / correction.astype(wide)", "nu + zero"
    ),
    _adaptive(
        "eps inside the root",
        "metric += delta.astype(wide)",
        "metric = jnp.sqrt(jnp.square(metric) + delta.astype(wide))",
    ),
    _adaptive(
        "full step", "step_.astype(wide) * (new", "(0 * step_ + 1).astype(wide) * (new"
    ),
    _adaptive(
        "schedule begun one later",
        "0.06 / jnp.sqrt(jnp.asarray(count) + 4.0)",
        "0.06 / jnp.sqrt(jnp.asarray(count) + 5.0)",
    ),
    # --- ProxGen: R_ProxAdamW_* ---
    _proxgen(
        "first moment uncorrected",
        "(eta / (1 - now.b1**t))",
        "(eta / (1 - 0 * now.b1**t))",
    ),
    _proxgen(
        "metric uncorrected", "jnp.sqrt(1 - now.b2**t)", "jnp.sqrt(1 - 0 * now.b2**t)"
    ),
    _proxgen(
        "decay coupled to nothing",
        "(1 - eta * now.weight_decay)",
        "(1 - now.weight_decay)",
    ),
    _proxgen("amsgrad forgets", "jnp.maximum(nu_max, nu)", "nu"),
    _proxgen(
        "threshold without the learning rate",
        "(new,), eta * now.strength",
        "(new,), now.strength",
    ),
    _adam(
        "second moment of the first's weight",
        "(1 - b2) * jnp.square(g)",
        "(1 - b1) * jnp.square(g)",
    ),
    # --- ProxSSI: c_proxssi ---
    _proxssi(
        "metric corrected",
        "metric = jnp.sqrt(nu + zero) +",
        "metric = jnp.sqrt((nu + zero) / (1 - now.b2**t).astype(wide)) +",
    ),
    _proxssi("rate uncorrected", "if bias_correction:", "if not bias_correction:"),
    _proxssi(
        "decay before the step",
        "new = (1 - eta * now.weight_decay).astype(wide) * new",
        "new = new - (eta * now.weight_decay).astype(wide) * w_wide",
    ),
    _proxssi(
        "corrected rate in the threshold",
        "options = eta * now.strength",
        "options = corrected * now.strength",
    ),
    # --- RigL: e_jaxpruner_f32, e_jaxpruner_f64 ---
    _masks(
        "no cosine",
        "value / 2 * (1 + jnp.cos(jnp.pi * count / self.end_step))",
        "value",
    ),
    _masks(
        "counts rounded down",
        "jnp.round(n_flags * (1 - fraction))",
        "jnp.floor(n_flags * (1 - fraction))",
    ),
    _masks(
        "just dropped not eligible",
        "_above(score, ~kept)",
        "_above(score, ~(kept | mask))",
    ),
    _masks(
        "dropped by gradient, not by weight",
        "kept = _keep(_above(w, mask), n_kept)",
        "kept = _keep(_above(score, mask), n_kept)",
    ),
    _masks("one rewiring late", "(count <= self.end_step)", "(count < self.end_step)"),
    _masks(
        "ERK by the product", "raw = [sum(shape) / size", "raw = [max(shape) / size"
    ),
    _rigl("slots of grown weights kept", "jnp.where(flag, fresh, old)", "old"),
    _rigl("all slots reset", "jnp.where(flag, fresh, old)", "fresh"),
    _rigl("weights step while masks move", "jnp.where(due, jnp.zeros_like(d), d)", "d"),
    _seen(
        "optimizer sees dense gradients",
        "_masked(masks, updates), state.inner_state",
        "updates, state.inner_state",
    ),
]


def apply(perturbation: Perturbation, root: Path) -> None:
    """Change one expression of a tree, which must hold it exactly once."""
    path = root / perturbation.module
    source = path.read_text()
    if source.count(perturbation.right) != 1:
        raise ValueError(
            f"{perturbation.module} must hold {perturbation.right!r} once, found "
            f"{source.count(perturbation.right)} times. Bring the table up to date."
        )
    _ = path.write_text(source.replace(perturbation.right, perturbation.wrong))


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
    """Run every perturbation, or those whose module's name is given."""
    survived = 0
    for perturbation in PERTURBATIONS:
        if not all(word in perturbation.module for word in sys.argv[1:]):
            continue
        caught = catch(perturbation)
        survived += not caught
        line = {
            "module": perturbation.module,
            "mistake": perturbation.mistake,
            "caught_by": caught,
        }
        print(json.dumps(line), flush=True)
    sys.exit(survived > 0)


if __name__ == "__main__":
    main()
