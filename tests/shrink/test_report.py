"""What is measured before and after, what is stored, and low rank."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from rmda_jax import shrink
from tests.shrink.test_apply import mlp, planned
from tests.shrink.test_trace import X, normal


def test_verify_finds_the_largest_difference():
    fn = lambda p, x: {"sum": p + x, "product": p * x}
    x = jnp.array([1.0, -4.0])
    found = shrink.verify(fn, jnp.array(2.0), jnp.array(2.5), x)
    assert (found.max_abs, found.scale, found.relative) == (2.0, 8.0, 0.25)
    assert str(found) == "max |old - new| = 2.0e+00, max |old| = 8.0e+00"
    other = shrink.verify(fn, 2.0, 2.0, x, small_fn=lambda p, x: fn(p + 1, x))
    assert other.max_abs == 4.0


def test_verify_does_not_overlook_nan():
    fn = lambda p, x: [p * x, x]
    found = shrink.verify(fn, 1.0, jnp.nan, jnp.array([1.0, 2.0]))
    assert np.isnan(found.max_abs)


def test_verify_wants_the_same_shapes():
    with pytest.raises(ValueError, match="must put out the same shapes, got"):
        _ = shrink.verify(lambda p, x: p * x, jnp.ones(2), jnp.ones(3), 1.0)


def test_report_counts_and_times():
    params, plan = planned()
    nested = lambda p, x: mlp(p["mlp"], x)
    params, small = {"mlp": params}, {"mlp": shrink.apply(plan, params)}
    found = shrink.report(nested, params, small, X, repeats=3)
    assert found.parameters == shrink.BeforeAfter(24 + 6 + 18 + 3, 16 + 4 + 12 + 3)
    assert found.disk_bytes.before == 4 * 51
    assert found.flops.ratio < 0.75
    assert found.seconds.before > 0
    assert found.difference.max_abs < 2e-6
    (layer,) = found.layers
    assert (layer.name, layer.before, layer.after) == ("mlp", (4, 6), (4, 4))
    table = str(found).splitlines()
    assert table[1].split() == "mlp 4x6 4x4 51 -> 35 0.69".split()
    assert "parameters: 51 -> 35, 0.69" in table


def test_report_leaves_out_layers_of_which_nothing_goes():
    params, plan = planned()
    apart = lambda p: {name: {"leaf": x} for name, x in p.items()}
    fn = lambda p, x: mlp({name: x["leaf"] for name, x in p.items()}, x)
    small = shrink.apply(plan, params)
    found = shrink.report(fn, apart(params), apart(small), X, plan=plan, repeats=1)
    assert [layer.name for layer in found.layers] == ["bias", "in", "out"]


def test_report_turns_down_what_cannot_be_compared():
    params, _ = planned()
    with pytest.raises(ValueError, match="`repeats` must be positive, got 0"):
        _ = shrink.report(mlp, params, params, X, repeats=0)
    with pytest.raises(ValueError, match=r"must have the same leaves, got .* more"):
        _ = shrink.report(mlp, params, params | {"more": jnp.ones(1)}, X)


def test_a_new_process_runs_what_was_saved(tmp_path):
    params, plan = planned()
    path = tmp_path / "small.safetensors"
    small = shrink.apply(plan, params)
    shrink.save(path, {"mlp": small}, None)
    program = f"""
import jax, jax.numpy as jnp
from rmda_jax import shrink
params, widths = shrink.load({str(path)!r})
p, hidden = params["mlp"], widths["mlp/in"][-1]
x = jnp.ones((3, 4))
out = jax.nn.sigmoid(x @ p["in"] + p["bias"]) @ p["out"] + p["shift"]
print(hidden, *map(float, out[0]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    hidden, *out = map(float, done.stdout.split())
    assert hidden == 4
    np.testing.assert_allclose(out, mlp(params, X)[0], rtol=0, atol=2e-6)


def test_what_is_saved_is_loaded(tmp_path):
    tree = {
        "layers": [{"kernel": jnp.ones((2, 3), jnp.bfloat16)}],
        "count": jnp.array(3),
        "mask": np.array([True, False]),
    }
    shrink.save(tmp_path / "tree", tree)
    params, widths = shrink.load(tmp_path / "tree")
    assert widths == {"layers/0/kernel": (2, 3), "count": (), "mask": (2,)}
    assert params["layers"]["0"]["kernel"].dtype == jnp.bfloat16
    assert (int(params["count"]), params["mask"].tolist()) == (3, [True, False])
    shrink.save(tmp_path / "bare", jnp.arange(3.0))
    assert shrink.load(tmp_path / "bare")[0].tolist() == [0, 1, 2]


def test_save_and_load_turn_down_what_they_cannot_keep(tmp_path, monkeypatch):
    params, plan = planned()
    with pytest.raises(ValueError, match=r"'bias' must have the plan's width \(4,\)"):
        shrink.save(tmp_path / "big", params, plan)
    with pytest.raises(ValueError, match="different names, got two or more of a/b"):
        shrink.save(tmp_path / "twice", {"a": {"b": X}, "a/b": X})
    from safetensors.numpy import save_file

    save_file({"x": np.ones(2)}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"must hold widths, got only \[\]"):
        _ = shrink.load(tmp_path / "other")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r"pip install 'rmda_jax\[safetensors\]'"):
        _ = shrink.load(tmp_path / "other")


def test_factors_multiply_to_the_kernel():
    factors = normal({"left": (2, 6, 3), "right": (2, 3, 5)})
    kernel = factors["left"] @ factors["right"]
    left, right = shrink.factors(kernel)
    assert (left.shape, right.shape) == ((2, 6, 3), (2, 3, 5))
    np.testing.assert_allclose(left @ right, kernel, rtol=0, atol=2e-6)
    norms = [jnp.linalg.norm(x, axis=axis) for x, axis in ((left, 1), (right, 2))]
    np.testing.assert_allclose(*norms, rtol=1e-5)


def test_factors_of_a_lower_rank_are_the_best_ones():
    kernel = normal({"kernel": (6, 5)})["kernel"]
    left, right = shrink.factors(kernel, rank=2)
    s = np.linalg.svd(kernel, compute_uv=False)
    error = np.linalg.norm(left @ right - kernel)
    np.testing.assert_allclose(error, np.linalg.norm(s[2:]), rtol=1e-5)


def test_factors_keep_dtype_and_one_column_of_nothing():
    left, right = shrink.factors(jnp.zeros((4, 3), jnp.bfloat16))
    assert (left.shape, right.shape) == ((4, 1), (1, 3))
    assert left.dtype == right.dtype == jnp.bfloat16
    assert not left.any()


@pytest.mark.parametrize(
    ("kernel", "rank", "message"),
    [
        (np.ones(3), None, r"matrix or a batch of them, got shape \(3,\)"),
        (np.full((2, 2), np.nan), None, r"of shape \(2, 2\) must be finite"),
        (np.ones((3, 2)), 3, r"among 1, ..., 2 for a kernel of shape \(3, 2\), got 3"),
        (np.ones((3, 2)), 0, "got 0"),
    ],
)
def test_factors_turn_down_what_is_no_matrix(kernel, rank, message):
    with pytest.raises(ValueError, match=message):
        _ = shrink.factors(kernel, rank)
