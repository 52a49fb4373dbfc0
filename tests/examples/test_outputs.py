"""Programs write under `out/`, unless they are told where: a clone stays clean."""

import dataclasses
import importlib
import inspect
import types
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks, masks, report as benchmark_report
from examples.poster import report
from examples.poster.__main__ import main
from examples.poster.driver import KEPT, RunError
from examples.poster.presets import preset
from examples.poster.selection import selected_strength

ROOT = Path(__file__).parents[2]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in ("examples", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "integrations" not in path.parts  # they write into temporary folders
]


def default_paths(module: types.ModuleType) -> dict[str, Path]:
    """Return the paths that a module takes if it is not told any."""
    found = {}
    for name, thing in vars(module).items():
        if getattr(thing, "__module__", None) != module.__name__:
            continue
        if dataclasses.is_dataclass(thing):
            defaults = {f.name: f.default for f in dataclasses.fields(thing)}
        elif inspect.isfunction(thing):
            parameters = inspect.signature(thing).parameters.values()
            defaults = {p.name: p.default for p in parameters}
        else:
            continue
        paths = {k: x for k, x in defaults.items() if isinstance(x, Path)}
        found |= {f"{name}.{key}": path for key, path in paths.items()}
    return found


def outside(paths: dict[str, Path]) -> list[str]:
    return [name for name, path in paths.items() if path.parts[0] != "out"]


@pytest.mark.parametrize("module", MODULES)
def test_default_paths_are_under_out(module):
    if module in [f"examples.pretrained.{x}" for x in ("check", "tokens", "weights")]:
        _ = pytest.importorskip("gguf"), pytest.importorskip("tokenizers")
    assert outside(default_paths(importlib.import_module(module))) == []


def test_a_default_path_elsewhere_is_noticed():
    module = types.ModuleType("a_program")
    exec(
        "import dataclasses\n"
        "from pathlib import Path\n"
        "@dataclasses.dataclass\n"
        "class Config:\n"
        "    figure: Path = Path('figure.png')\n"
        "    log: Path = Path('out/log.jsonl')\n"
        "def write(page=Path('/tmp/page.md')): ...\n",
        vars(module),
    )
    assert outside(default_paths(module)) == ["Config.figure", "write.page"]


def test_a_benchmark_writes_its_rows_under_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    masks.main(["--size", "100", "--rounds", "1", "--patience", "0"])
    benchmarks.main(["report"])
    written = [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")]
    assert sorted(written) == [
        "out/benchmarks/RESULTS.md",
        "out/benchmarks/masks.jsonl",
    ]


def test_all_benchmarks_write_into_the_folder_that_is_given(monkeypatch):
    lines = []

    def run(line, check):
        lines.append(line[1:])
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr("subprocess.run", run)
    benchmarks.main(["all", "--results", "some"])
    assert ["-m", "benchmarks.step", "--network", "vgg19"] == lines[1][:4]
    assert {line[-2] for line in lines} == {"--json"}
    assert [line[-1] for line in lines[2:4]] == ["some/step.jsonl", "some/metric.jsonl"]


def test_no_benchmark_to_report_on_is_an_error_with_the_remedy(tmp_path):
    with pytest.raises(
        SystemExit, match=r"no results\. .*--results benchmarks/results"
    ):
        _ = benchmark_report.results(tmp_path)
    assert benchmark_report.results(ROOT / "benchmarks" / "results")


def test_no_log_to_report_on_is_an_error_with_the_remedy(tmp_path, monkeypatch):
    with pytest.raises(RunError, match=r"no logs\. .*--logs examples/poster/logs"):
        report.write(tmp_path / "logs", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.chdir(tmp_path)
    main(["report", "--logs", str(KEPT)])
    assert (tmp_path / "out/poster/RESULTS.md").exists()


def test_a_strength_selected_here_goes_before_those_that_are_kept(tmp_path):
    settings = preset("lenet5/fashion_mnist", "ramda").scaled(30)
    strength, source = selected_strength(settings, tmp_path)
    assert source.startswith("selected (largest strength within")
    row = {"task": settings.task, "method": "ramda", "epochs": 30, "seeds": 1}
    row |= {"learning_rate": settings.learning_rate, "rule": "mine"}
    (tmp_path / "selection.jsonl").write_text(
        str(row | {"selected": 2 * strength}).replace("'", '"') + "\n"
    )
    mine = selected_strength(settings, tmp_path)
    assert mine == (2 * strength, "selected (mine; 30 epochs)")
