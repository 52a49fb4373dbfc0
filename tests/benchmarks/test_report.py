"""The results page: what a fixed set of rows makes of it."""

import json

from benchmarks import __main__ as command, report
from benchmarks._rows import publish, read, table

CPU = {"backend": "cpu", "device": "cpu", "jax": "0.10.2", "cpus": 2, "idle": True}
STEP = {"benchmark": "step", "problem": "resnet50", "milliseconds": 16.25, **CPU}
RMDA = STEP | {
    "what": "rmda",
    "times_adam": 0.94,
    "times_adam_iqr": 0.02,
    "temporary_bytes_per_parameter": 0.0123,
}
RAMDA = STEP | {"what": "ramda", "times_rmda": 6.5, "times_adam": 6.1}
METRIC = {"benchmark": "metric", "problem": "3x3x512x512", **CPU}
ERRORS = [
    METRIC | {"what": f"ramda, step {n}", "milliseconds": 1.0, "error": error}
    for n, error in ((1, 1e-7), (10, 2e-6), (100, 1e-7))
]
MASKS = {"benchmark": "masks", "what": "keep_largest", "problem": "2359296", **CPU}
MASKS |= {"milliseconds": 10.4, "times_argsort": 0.0132, "idle": False}
ROWS = [RMDA, RAMDA, *ERRORS, MASKS]


def cells(text, start):
    """Return the cells of the line of a table whose first cell this is."""
    lines = (line.strip("|").split("|") for line in text.splitlines())
    (found,) = (line for line in lines if line[0].strip() == start)
    return [cell.strip() for cell in found]


def test_goals_are_met_missed_or_not_run():
    page = report.page(ROWS)
    for line in (
        ["RMDA, group lasso / `optax.adam`", "1.00", "0.94", "met"],
        ["RMDA, temporary bytes per parameter", "0.050", "0.012", "met"],
        ["RAMDA / RMDA", "5.00", "6.50", "missed"],
        [
            "RAMDA's subproblem, error of the worst group",
            "1.0e-06",
            "2.0e-06",
            "missed",
        ],
        ["RigL's mask / argsort", "0.020", "0.013 (busy cores)", "met"],
        ["RMDA, group lasso / `optax.adam` on a GPU", "1.20", "not run", "not run"],
        [
            "RMDA, group lasso / the authors' PyTorch: VGG19",
            "0.42",
            "not run",
            "not run",
        ],
    ):
        assert cells(page, line[0]) == line


def test_goal_over_several_figures_needs_all_of_them():
    page = report.page([RMDA, *ERRORS[:2]])
    name = "RAMDA's subproblem, error of the worst group"
    assert cells(page, name)[2:] == ["not run", "not run"]


def test_results_of_a_gpu_do_not_count_for_the_cpu():
    gpu = RMDA | {"backend": "gpu", "device": "H100", "times_adam": 1.5}
    page = report.page([RMDA, gpu])
    assert cells(page, "RMDA, group lasso / `optax.adam`")[2] == "0.94"
    assert cells(page, "RMDA, group lasso / `optax.adam` on a GPU")[3] == "missed"
    assert "\nH100, 2 CPU cores, JAX 0.10.2:\n" in page


def test_page_has_the_tables_of_what_was_run():
    page = report.page(ROWS)
    one, two = page.split("## The same in the authors' code")
    assert cells(one.split("## One optimizer step")[1], "rmda")[1] == "resnet50"
    assert two.lstrip().startswith("`python -m benchmarks.authors`\n\nNot run.")


def test_readme_table_is_short_and_says_what_was_not_run():
    text = report.readme(ROWS)
    assert len(text.splitlines()) <= 12
    assert "| 16.2    | `optax.adam`" in text
    assert "0.94 ± 0.01" in text
    assert cells(text, "ProxGen, ResNet50")[3] == "not run"


def test_command_writes_the_page_and_prints_the_table(tmp_path, capsys):
    (tmp_path / "step.jsonl").write_text(f"{json.dumps(RMDA)}\n")
    path = tmp_path / "page.md"
    options = ["--results", str(tmp_path), "--page", str(path)]
    command.main(["report", *options])
    assert path.read_text() == report.page([RMDA])
    command.main(["readme", *options])
    assert capsys.readouterr().out == report.readme([RMDA]) + "\n"


def test_rows_of_the_same_problem_replace_each_other(tmp_path, capsys):
    path = tmp_path / "x.jsonl"
    row = lambda problem, x: {"what": "a", "problem": problem, "x": x}
    for rows in ([row("p", 1.0), row("q", 2.0)], [row("p", 1.23456)]):
        publish("x", rows, {"what": "", "x": ".1f"}, path)
    assert [(r["problem"], r["x"]) for r in read(path)] == [("q", 2.0), ("p", 1.235)]
    assert capsys.readouterr().out.endswith(
        "| what |   x |\n| ---- | --: |\n| a    | 1.2 |\n"
    )


def test_table_leaves_out_columns_that_no_row_has():
    rows = [{"what": "a", "x": 1}, {"what": "b"}]
    assert table(rows, {"what": "", "x": "d", "y": ""}).splitlines()[2:] == [
        "| a    | 1 |",
        "| b    | - |",
    ]
