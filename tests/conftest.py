"""Settings that every test runs under, made before JAX starts."""

import os

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


@pytest.fixture
def x64():
    """Run the test in float64; inside `hypothesis.given` use `float64` instead."""
    with float64():
        yield
