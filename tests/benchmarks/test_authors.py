"""The authors' code: what is asked of it, on stand-ins that have its interface."""

import json
import sys

import pytest

from benchmarks import authors

OPTIMIZER = """
import torch
class Base(torch.optim.Optimizer):
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.data.sub_(group["lr"] * p.grad)
"""
CORE_OPTIMIZER = """
from Core.prox_fns import prox_nuclear_norm
class Proximal(Base):
    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr, "dim": None})
class RMDA(Proximal): pass
class ProxSGD(Proximal): pass
class Solved(Base):
    def __init__(self, params, lr=0.1, solver=None):
        super().__init__(params, {"lr": lr, "dim": None})
        self.solver = solver
    def step(self):
        if self.solver is not None:
            assert self.solver(max_iters=100, rtol=1e-8) == -float("inf")
        super().step()
class RAMDA(Solved): pass
class ProxAdamW(Solved): pass
"""
FILES = {
    "rmda/RMDA/Optimizer/rmda.py": OPTIMIZER
    + """
class RMDA(Base):
    def __init__(self, params, lr, momentum, lambda_, prox_fn):
        super().__init__(params, {"lr": lr})
        prox_fn(p=self.param_groups[0]["params"][0].data, lambda_=lambda_, alpha=1.0)
""",
    "rmda/RMDA/ProxFn/prox_fns.py": """
import torch
def prox_glasso(p, lambda_, alpha):
    assert torch.linalg.norm(torch.ones(2, 2, 2, 2), dim=(0, 2, 3)).shape == (2,)
def prox_l1(p, lambda_, alpha): pass
""",
    "RAMDA/Core/optimizer.py": OPTIMIZER + CORE_OPTIMIZER,
    "RAMDA/Core/group.py": """
def group_model(model, name, lambda_):
    assert name == "ConvNet"
    return [{"params": [p for _, p in model.named_parameters()], "dim": None}]
""",
    "RAMDA/Core/prox_fns.py": """
def prox_nuclear_norm(p, alpha, lambda_, dim=None): p.mul_(2)
""",
    "RAMDA/Core/solvers.py": """
def pgd_solver_group_lasso(**given): return given["rtol"]
""",
}


@pytest.fixture
def clones(tmp_path, monkeypatch):
    for where, source in FILES.items():
        path = tmp_path / where
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "Core"]:
        del sys.modules[name]


def test_steps_are_compared_form_by_form(clones):
    torch = pytest.importorskip("torch")
    norm = torch.linalg.norm
    path = clones / "authors.jsonl"
    brief = ["--rounds", "1", "--slow-rounds", "1", "--patience", "0"]
    small = ["--network", "synthetic", "--width", "2", "--nuclear", "6", "4"]
    folders = [str(clones / "rmda"), str(clones / "RAMDA")]
    try:
        authors.main(["--checkout", *folders, *brief, *small, "--json", str(path)])
    finally:
        torch.linalg.norm = norm
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {(row["what"], row["theirs"]) for row in rows} == {
        ("rmda", "as released"),
        ("rmda", "of the RAMDA package"),
        ("rmda, l1", "as released"),
        ("proxsgd", "as released"),
        ("ramda", "as released"),
        ("ramda", "100 iterations"),
        ("proxgen", "as released"),
        ("nuclear norm", "as released"),
    }
    for row in rows:
        assert {"milliseconds", "authors_milliseconds", "times_authors"} <= row.keys()


def test_folder_that_is_no_clone_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="is no clone of"):
        _ = authors.find(None, [tmp_path])


def test_torch_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(authors, "find_torch", lambda: None)
    with pytest.raises(SystemExit, match="needs PyTorch"):
        authors.main(["--checkout", str(tmp_path), "--json", str(tmp_path / "x")])


def test_clone_is_asked_for(capsys):
    with pytest.raises(SystemExit):
        authors.main([])
    assert "checkout" in capsys.readouterr().err
