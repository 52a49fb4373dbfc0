"""Steps compiled for a GPU and a TPU launch and move no more than the table allows.

Nothing runs: XLA's compilers need no device. Every step is compiled in a process of its
own, because the settings of the tests are for programs that run, on CPU.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from benchmarks import proxes
from benchmarks._targets import TARGETS, missing
from tests.aot._limits import exceeded, limits

ROOT = Path(__file__).parents[2]
# Seconds to compile; the others take up to two minutes.
QUICK = ("optax.adam", "rmda", "rmda, l1", "proxsgd")
QUICK_PROXES = ("group_lasso", "sparse_group_lasso, metric")
SECONDS = 60  # of the processor, for the prox of one leaf
# What is not held below limits, and why.
_SPECTRUM = "a spectrum: 20 seconds of a TPU's compiler, and more"
NOT_COMPILED = {
    ("v5e", name): _SPECTRUM
    for name in (
        "nuclear_norm, metric",
        "spectral_mcp, metric",
        "on_singular_values",
        "on_singular_values, metric",
        "max_rank, metric",
    )
}
# What needs more than 64 bytes of temporaries a parameter, and why.
_DIFFERENCES = "two scans, with arrays of all their turns, in a proximal gradient"
_POINTS = "the best of many points, of a leaf of 256"
LARGE = {
    ("h100", "total_variation, metric"): _DIFFERENCES,
    ("h100", "fused_lasso, metric"): _DIFFERENCES,
    ("h100", "l_half_ball"): _POINTS,
    ("h100", "l_half_ball, metric"): _POINTS,
    ("v5e", "l_half_ball"): _POINTS,
    ("v5e", "l_half_ball, metric"): _POINTS,
}
RUN = "from benchmarks.{} import main; main()"
BARRIER = (
    "from rmda_jax.regularizers.solvers import _recomputed as m; "
    "m._unchanged = m._behind_a_barrier; "
)
# Leaves in turn, each with a loop of its own, as on CPU.
REOPENED = (
    "from rmda_jax.transforms import _prox_leaves as m; m._together = m._in_turn; "
)
# The masks of RigL come out of the branch that moves them, as on CPU.
FROM_A_BRANCH = "from rmda_jax.transforms import _rewiring as m; m.GPUS = (); "


def case(limit):
    name = "-".join(limit[key] for key in ("target", "problem", "what"))
    quick = {"small": QUICK, "prox": QUICK_PROXES}
    daily = limit["what"] in quick.get(limit["problem"], ())
    return pytest.param(limit, id=name, marks=() if daily else pytest.mark.long)


def measured(limit, folder, before=""):
    """Compile the step of a row in a process of its own, after some statements."""
    if missing(limit["target"]):
        pytest.skip(missing(limit["target"]))
    oldest = tuple(int(n) for n in limit["jax"].split("."))
    if jax.__version_info__ < oldest:
        pytest.skip(f"the limit is that of JAX {limit['jax']}, this is older")
    path = folder / "rows.jsonl"
    if limit["problem"] == "prox":
        module, arguments = "proxes", [limit["target"], "--names", limit["what"]]
    else:
        module, (tree, *devices) = "compiled", limit["problem"].split(" on ")
        arguments = ["--target", limit["target"], "--tree", tree]
        arguments += ["--devices", *devices] if devices else []
        arguments += ["--optimizers", limit["what"]]
    arguments += ["--json", str(path)]
    settings = {
        k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", before + RUN.format(module), *arguments],
        cwd=ROOT,
        env=settings | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text("utf-8"))


@pytest.mark.parametrize("limit", [case(limit) for limit in limits()])
def test_a_step_stays_below_its_limits(limit, tmp_path):
    row = measured(limit, tmp_path)
    assert not exceeded(row, limit)
    assert row.get("seconds", 0) <= SECONDS


def test_every_prox_has_limits_for_every_target():
    found = {(x["target"], x["what"]) for x in limits() if x["problem"] == "prox"}
    expected = {(t, name) for t in TARGETS for name in proxes.NAMES}
    assert found == expected - NOT_COMPILED.keys()


def test_a_prox_needs_few_temporaries():
    """At most 64 bytes a parameter, 16 arrays of the size of the leaf."""
    large = {
        (row["target"], row["what"])
        for row in limits()
        if row["problem"] == "prox" and row["temporary_bytes_per_parameter"] > 64
    }
    assert large == LARGE.keys()


def of_step(what):
    (limit,) = (
        row
        for row in limits()
        if (row["target"], row["problem"], row["what"]) == ("h100", "small", what)
    )
    return limit


def test_a_barrier_put_back_is_caught(tmp_path):
    limit = of_step("rmda")
    found = exceeded(measured(limit, tmp_path, BARRIER), limit)
    assert found.keys() >= {"kernels", "bytes_per_parameter"}


def test_a_loop_opened_again_is_caught(tmp_path):
    limit = of_step("ramda")
    found = exceeded(measured(limit, tmp_path, REOPENED), limit)
    assert found.keys() >= {"loops", "host_decisions"}


def test_masks_from_a_branch_are_caught(tmp_path):
    limit = of_step("rigl")
    found = exceeded(measured(limit, tmp_path, FROM_A_BRANCH), limit)
    assert found.keys() >= {"kernels", "loops", "copies"}
