"""The package as it is installed: what it imports, and what it says to an old JAX."""

import subprocess
import sys
import tomllib
from pathlib import Path

from rmda_jax._version import OLDEST_JAX

ROOT = Path(__file__).parents[1]

# A finder in front of all others, which has none of what the library can do without.
ONLY_JAX_AND_OPTAX = """
import sys
class Missing:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}")
sys.meta_path.insert(0, Missing)
import rmda_jax, rmda_jax.testing
"""
OLD_JAX = """
import sys, jax
jax.__version__, jax.__version_info__ = "0.6.1", (0, 6, 1)
try:
    import rmda_jax
except ImportError as error:
    print(error)
print([name for name in sys.modules if name.startswith("rmda_jax.")])
"""


def run(program: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_jax_and_optax_are_all_it_imports():
    missing = {"flax", "equinox", "haiku", "orbax", "safetensors", "matplotlib"}
    done = run(ONLY_JAX_AND_OPTAX.format(missing=missing))
    assert done.returncode == 0, done.stderr


def test_a_library_that_is_missing_is_missed():
    done = run(ONLY_JAX_AND_OPTAX.format(missing={"optax"}))
    assert "No module named 'optax'" in done.stderr


def test_an_old_jax_is_named_with_the_remedy_before_anything_else():
    done = run(OLD_JAX)
    message, imported = done.stdout.splitlines()
    assert message == (
        "rmda_jax needs jax 0.6.2 or newer, found 0.6.1. Install one: pip install "
        '--upgrade "jax>=0.6.2".'
    )
    assert imported == "[]"


def test_oldest_jax_is_the_one_that_pyproject_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    oldest = ".".join(map(str, OLDEST_JAX))
    assert f"jax>={oldest}" in project["project"]["dependencies"]
