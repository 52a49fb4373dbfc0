"""Settings that every test runs under, made before JAX starts."""

import os
import tempfile
from pathlib import Path

import hypothesis
import jax
import pytest

from tests._x64 import float64

# Eight devices, so that sharding is real; and one thread to a computation, because the
# test workers share the cores already (measured: compiles 1.7 times as fast).
_FLAGS = {
    "--xla_force_host_platform_device_count": "8",
    "--xla_cpu_multi_thread_eigen": "false",
}
_given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = " ".join(
    [_given, *(f"{k}={v}" for k, v in _FLAGS.items() if k not in _given)]
).strip()

hypothesis.settings.register_profile("house", derandomize=True, deadline=None)
hypothesis.settings.load_profile("house")


def pytest_configure(config):
    """Share compiled programs among the tests and the workers of this run alone.

    Compiling is what takes the time, and many tests ask for the same programs. Workers
    and other processes that a test starts inherit the environment.
    """
    config.addinivalue_line("markers", "long: takes minutes; runs if RMDA_LONG is set")
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


def pytest_collection_modifyitems(items):
    """Leave out what takes minutes, unless it is asked for."""
    if "RMDA_LONG" not in os.environ:
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="RMDA_LONG is not set"))


# Linux grants a process 65,530 memory maps. Every compiled program takes some, and the
# whole suite in one process would take more.
_MAPS = Path("/proc/self/maps")
_MANY_MAPS = 20_000


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Between modules, drop the compiled programs if there are many."""
    yield
    if _MAPS.exists() and len(_MAPS.read_bytes().splitlines()) > _MANY_MAPS:
        jax.clear_caches()


@pytest.fixture
def x64():
    """Run the test in float64; inside `hypothesis.given` use `float64` instead."""
    with float64():
        yield
