import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests._optimized import NAME, optimized
from tests._x64 import float64


def test_tests_run_on_eight_cpu_devices():
    assert len(jax.devices("cpu")) == 8


def test_float64_lasts_as_long_as_its_block():
    wide = np.ones(2, np.float64)
    with float64():
        assert jnp.asarray(wide).dtype == jnp.float64
    assert jnp.asarray(wide).dtype == jnp.float32


def test_x64_fixture_reaches_the_test(x64):
    assert jnp.asarray(np.ones(2, np.float64)).dtype == jnp.float64


def test_compiled_programs_are_shared_with_other_workers():
    folder = jax.config.jax_compilation_cache_dir
    assert folder == os.environ["JAX_COMPILATION_CACHE_DIR"]
    _ = jax.jit(jnp.sin).lower(jnp.ones(17)).compile()
    assert any(Path(folder).glob("*-cache"))


@pytest.mark.skipif("RMDA_LONG" in os.environ, reason="programs lowered as usual")
def test_programs_are_lowered_in_one_context():
    mlir = pytest.importorskip("jax._src.interpreters.mlir")
    assert mlir.make_ir_context() is mlir.make_ir_context()
    with mlir.make_ir_context() as outer:
        assert mlir.make_ir_context() is not outer


def test_programs_are_optimized_for_as_long_as_a_block():
    before = jax.config.read(NAME)
    assert before == (os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "0") == "1")
    with optimized():
        assert not jax.config.read(NAME)
    assert jax.config.read(NAME) == before
