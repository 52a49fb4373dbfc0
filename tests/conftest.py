"""Settings that every test runs under, made before JAX starts."""

import os
from pathlib import Path

import hypothesis
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

# Linux grants a process 65,530 memory maps. Every compiled program takes some, and the
# whole suite in one process would take more.
_MAPS = Path("/proc/self/maps")
_MANY_MAPS = 20_000


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Between modules, drop the compiled programs if there are many."""
    yield
    if _MAPS.exists() and len(_MAPS.read_bytes().splitlines()) > _MANY_MAPS:
        import jax

        jax.clear_caches()


@pytest.fixture
def x64():
    """Run the test in float64; inside `hypothesis.given` use `float64` instead."""
    with float64():
        yield
