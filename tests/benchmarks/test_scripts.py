"""Every script, at a size at which its times mean nothing."""

import importlib
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as command, step, training
from examples.poster import models

pytestmark = pytest.mark.costly

BRIEF = ["--rounds", "1", "--patience", "0"]
MACHINE = {"benchmark", "what", "problem", "backend", "device", "jax", "cpus"}
TIMED = {"milliseconds", "idle"}
GROUPS = ["--groups", "5"]
COMMON = ["--optimizers", "optax.adam", "rmda"]
SCRIPTS = {
    "step": (
        ["--network", "synthetic", "--width", "4", "--triad-size", "100", *COMMON],
        {"optax.adam", "rmda", "triad"},
        TIMED | {"times_adam", "times_adam_iqr", "times_rmda", "parameters"},
    ),
    "metric": (
        ["--channels", "4", "--steps", "1", "3"],
        {"plain prox", "ramda, step 1", "ramda, step 3"},
        TIMED | {"times_prox"},
    ),
    "nuclear": (
        ["--shapes", "6", "4", "--thresholds", "0.5", "0.01"],
        {"jnp.linalg.svd", "nuclear_norm().prox"},
        TIMED | {"times_svd"},
    ),
    "masks": (
        ["--size", "100"],
        {"keep_largest", "argsort"},
        TIMED | {"times_argsort", "equal"},
    ),
    "compile": (
        ["--networks", "--leaves", "2", *COMMON],
        {"optax.adam", "rmda"},
        {"seconds", "kernels", "instructions", "kilobytes", "leaves", "times_adam"},
    ),
    "scaling": (
        ["--parameters", "100", "--leaves", "2", "--total", "50", *COMMON, *GROUPS],
        {"optax.adam", "rmda"},
        TIMED | {"varied", "count", "times_adam"},
    ),
    "training": (
        ["--networks", "lenet5", "--images", "8", "--epoch-rounds", "1"],
        {"dense, step", "rmda, step", "rmda, overhead", "rmda, epoch"},
        TIMED | {"images"},
    ),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_saves_rows_and_prints_a_table(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "METHODS", ("dense", "rmda"))
    # Which compiles faster, and is trained on the same images.
    monkeypatch.setitem(models.NETWORKS, "lenet5", models.Logistic)
    args, expected, keys = SCRIPTS[name]
    path = tmp_path / f"{name}.jsonl"
    script = importlib.import_module(f"benchmarks.{name}")
    script.main([*args, *BRIEF, "--json", str(path)])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert expected <= {row["what"] for row in rows}
    for row in rows:
        assert MACHINE | keys <= row.keys()
        assert row["benchmark"] == name
    printed = capsys.readouterr().out
    for row in rows:
        assert f"| {row['what']}" in printed
    if name == "scaling":
        assert path.with_suffix(".png").stat().st_size > 0
    if name == "masks":
        assert all(row["equal"] for row in rows)
    if name in ("metric", "nuclear"):
        assert max(row.get("error", 0) for row in rows) < 1e-5
        assert any("error" in row for row in rows)


def test_all_runs_every_script(tmp_path):
    lines = list(command.scripts(command.Config("all", checkout=(tmp_path,))))
    assert {name for name, *_ in lines} == {*SCRIPTS, "authors"}
    assert ["step", "--network", "vgg19"] in lines
    without = list(command.scripts(command.Config("all")))
    assert "authors" not in {name for name, *_ in without}


def test_all_goes_on_after_a_failure_and_tells_of_it(monkeypatch, capsys):
    def run(line, check):
        assert not check
        return SimpleNamespace(returncode=int("benchmarks.masks" in line))

    monkeypatch.setattr("subprocess.run", run)
    with pytest.raises(SystemExit, match=r"failed: masks$"):
        command.main(["all", "--patience", "7"])
    assert "$ python -m benchmarks.training --patience 7.0" in capsys.readouterr().out


def test_step_can_be_called_as_a_file(monkeypatch):
    """Python then puts the folder of the file first on its path, and not its parent."""
    monkeypatch.setattr(sys, "argv", ["step.py", "--help"])
    file = Path(step.__file__)
    monkeypatch.setattr(sys, "path", [str(file.parent), *sys.path[1:]])
    with pytest.raises(SystemExit) as stop:
        _ = runpy.run_path(str(file), run_name="__main__")
    assert stop.value.code == 0
