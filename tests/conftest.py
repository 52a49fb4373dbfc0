"""Settings that every test runs under, made before JAX starts."""

import contextlib
import ctypes
import functools
import gc
import os
import resource
import tempfile
from pathlib import Path

import hypothesis
import jax
import pytest

from tests._x64 import float64


def _share_mlir_context():
    """Lower all programs in one context of MLIR; return what starts a new one.

    JAX makes one for each, and loads all dialects into it. One for all takes a fifth
    off the tests (shrink/test_costs.py: 28 s of a core in place of 35). A program that
    is lowered inside of another's lowering gets its own. All this is private to JAX:
    where it has other names, nothing changes.
    """
    try:
        from jax._src.interpreters import mlir
        from jax._src.lib.mlir import ir

        new = mlir.make_ir_context
        shared = functools.cache(new)
    except (ImportError, AttributeError):
        return lambda: None

    def make():
        try:
            outer = ir.Context.current
        except ValueError:  # older versions
            outer = None
        return shared() if outer is None else new()

    mlir.make_ir_context = make
    return shared.cache_clear


# Eight devices, so that sharding is real; and one thread to a computation, because the
# test workers share the cores already (measured: compiles 1.7 times as fast).
_FLAGS = {
    "--xla_force_host_platform_device_count": "8",
    "--xla_cpu_multi_thread_eigen": "false",
}
# By default programs are compiled without optimizations, for most run a few times on
# small arrays; at night as users compile them. Measured on the law of `jit`: 6 s of a
# core in place of 18; on `jax.random.uniform` of four axes, 0.2 s in place of 8.
_start_context = lambda: None
if "RMDA_LONG" not in os.environ:
    if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for other processes
        jax.config.update("jax_disable_most_optimizations", True)
    # XLA aborts on flags that it does not know: ask again before adding a version.
    if (0, 6) <= jax.__version_info__ < (0, 11):
        _FLAGS["--xla_cpu_use_fusion_emitters"] = "false"
        _FLAGS["--xla_cpu_parallel_codegen_split_count"] = "1"
    _start_context = _share_mlir_context()
_given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = " ".join(
    [_given, *(f"{k}={v}" for k, v in _FLAGS.items() if k not in _given)]
).strip()

# Python looks for cycles less often, and not among what the modules hold: a tenth off
# the tests (tests/laws: 24 s of a core in place of 27).
gc.set_threshold(100_000, 50, 100)

hypothesis.settings.register_profile("house", derandomize=True, deadline=None)
hypothesis.settings.load_profile("house")


def pytest_configure(config):
    """Share compiled programs among the tests and the workers of this run alone.

    Compiling is what takes the time, and many tests ask for the same programs. Workers
    and other processes that a test starts inherit the environment.
    """
    config.addinivalue_line("markers", "long: at night only; runs if RMDA_LONG is set")
    config.addinivalue_line("markers", "costly: `make test` runs one case of each kind")
    config.addinivalue_line("markers", "not_daily: `make test` leaves it out")
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:  # a worker's, or the user's own
        return
    folder = tempfile.TemporaryDirectory(prefix="rmda_jax-programs-")
    config.add_cleanup(folder.cleanup)
    settings = {
        "jax_compilation_cache_dir": folder.name,
        "jax_persistent_cache_min_compile_time_secs": 0,  # the small ones are many
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


def pytest_addoption(parser):
    """Add the options of `make test` and `make quick`."""
    few = {"action": "store_true"}
    parser.addoption("--daily", help="one case of every kind where they cost", **few)
    parser.addoption("--quick", help="one case of every kind, in some files", **few)


def pytest_ignore_collect(collection_path, config):
    """Do not even import what `make quick` leaves out."""
    from tests import _selection  # and with it the library: after the settings above

    if config.getoption("--quick") and _selection.is_left_out(collection_path):
        return True
    return None


def pytest_collection_modifyitems(items, config):
    """Leave out what runs at night, or all but one of a kind, as is asked for."""
    from tests import _selection

    quick, daily = config.getoption("--quick"), config.getoption("--daily")
    if quick or (daily and "RMDA_LONG" not in os.environ):
        items[:], others = _selection.chosen(items, costly=not quick)
        config.hook.pytest_deselected(items=others)
    if "RMDA_LONG" not in os.environ:
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="RMDA_LONG is not set"))


def pytest_collection_finish():
    """Look no more for cycles among what was imported."""
    gc.freeze()


# Compiled programs are kept until they are dropped. Those of the whole suite would take
# 4.7 GB of a worker, and more memory maps than the 65,530 that Linux grants a process.
_MAPS, _STATM = Path("/proc/self/maps"), Path("/proc/self/statm")
_MANY_MAPS = 20_000
_MUCH_MEMORY = 13 * 2**27  # 1.625 GiB
_SOME_MEMORY = 2**28
_limit = _MUCH_MEMORY


def _memory() -> int:
    """Return how many bytes of memory this process holds."""
    return int(_STATM.read_text().split()[1]) * resource.getpagesize()


def _forget_programs():
    """Drop the compiled programs, and give the memory back to the system."""
    jax.clear_caches()
    _start_context()
    _ = gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # other systems than Linux
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@pytest.fixture(autouse=True)
def _forget_programs_of_much_memory():
    """After a test, drop the compiled programs if they take much memory.

    Some stay, in the modules that hold them: so the next time waits until there are
    many new ones.
    """
    global _limit
    yield
    if _STATM.exists() and _memory() > _limit:
        _forget_programs()
        _limit = max(_MUCH_MEMORY, _memory() + _SOME_MEMORY)


@pytest.fixture(autouse=True, scope="module")
def _forget_many_programs():
    """Between modules, drop the compiled programs if there are many."""
    yield
    if _MAPS.exists() and len(_MAPS.read_bytes().splitlines()) > _MANY_MAPS:
        _forget_programs()


@pytest.fixture
def x64():
    """Run the test in float64; inside `hypothesis.given` use `float64` instead."""
    with float64():
        yield
