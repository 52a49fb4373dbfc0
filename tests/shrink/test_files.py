"""What a file gives back: the same containers, or those of a tree to fill."""

import json
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from rmda_jax import shrink
from tests._x64 import float64
from tests.shrink.test_apply import assert_equal, mlp, planned
from tests.shrink.test_trace import X


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
    assert params["layers"][0]["kernel"].dtype == jnp.bfloat16
    assert (int(params["count"]), params["mask"].tolist()) == (3, [True, False])
    shrink.save(tmp_path / "bare", jnp.arange(3.0))
    assert shrink.load(tmp_path / "bare")[0].tolist() == [0, 1, 2]


DTYPES = ["bfloat16", "float16", "float32", "complex64", "bool", "int8", "uint32"]


def bits(x):
    return np.asarray(x).reshape(-1).view(np.uint8).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_file_keeps_every_bit(tmp_path, dtype):
    values = [0.0, -0.0, 1.0] if dtype in ("bool", "uint32") else [0.1, -0.0, -3.7]
    values += [] if dtype in ("bool", "int8", "uint32") else [np.nan, np.inf, 1e-7]
    x = np.asarray(values, np.complex64 if dtype == "complex64" else np.float64)
    tree = {"a": {"b": jnp.asarray(x.astype(dtype)).reshape(-1, 3).T}}
    shrink.save(tmp_path / "tree", tree)
    loaded, _ = shrink.load(tmp_path / "tree")
    assert loaded["a"]["b"].dtype == dtype
    assert bits(loaded["a"]["b"]) == bits(tree["a"]["b"])


def test_other_readers_find_the_names_and_the_widths(tmp_path):
    kernel = jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3)
    shrink.save(tmp_path / "tree", {"layers": [{"kernel": kernel}]})
    with safe_open(tmp_path / "tree", "numpy") as file:
        assert list(file.keys()) == ["layers/0/kernel"]
        assert bits(file.get_tensor("layers/0/kernel")) == bits(kernel)
        assert json.loads(file.metadata()["widths"]) == {"layers/0/kernel": [2, 3]}


@pytest.mark.parametrize(
    ("dtype", "wider"),
    [("int4", "int8"), ("float8_e4m3fn", "bfloat16"), ("float8_e8m0fnu", "bfloat16")],
)
def test_a_dtype_that_the_file_cannot_keep_is_an_error(tmp_path, dtype, wider):
    x = jnp.ones(2, dtype)
    message = rf"got {dtype} for 'a/w'\. Convert .* x\.astype\(jnp\.{wider}\)\.$"
    with pytest.raises(TypeError, match=message):
        shrink.save(tmp_path / "tree", {"a": {"w": x}})
    assert not (tmp_path / "tree").exists()
    shrink.save(tmp_path / "tree", {"a": {"w": x.astype(wider)}})


def test_64_bits_that_jax_has_not_are_told(tmp_path):
    assert not jax.config.jax_enable_x64
    shrink.save(tmp_path / "tree", {"w": np.array([2**40, 1])})
    with pytest.warns(
        UserWarning, match=r"'w' in .* is of int64, .* as int32\. To keep"
    ):
        _ = shrink.load(tmp_path / "tree")
    with float64():
        assert shrink.load(tmp_path / "tree")[0]["w"].tolist() == [2**40, 1]


def test_save_and_load_turn_down_what_they_cannot_keep(tmp_path, monkeypatch):
    params, plan = planned()
    with pytest.raises(ValueError, match=r"'bias' must have the plan's width \(4,\)"):
        shrink.save(tmp_path / "big", params, plan)
    with pytest.raises(ValueError, match="have the same name 'a/b'"):
        shrink.save(tmp_path / "twice", {"a": {"b": X}, "a/b": X})
    save_file({"x": np.ones(2)}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"must hold widths, got only \[\]"):
        _ = shrink.load(tmp_path / "other")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r": pip install safetensors\.$"):
        _ = shrink.load(tmp_path / "other")


def layers(n_columns=3):
    """Twelve layers: as strings their numbers sort 0, 1, 10, 11, 2, ..."""
    return [{"w": jnp.full((2, n_columns), i)} for i in range(12)]


def test_layers_come_back_in_their_order(tmp_path):
    shrink.save(tmp_path / "list", layers())
    assert_equal(shrink.load(tmp_path / "list")[0], layers())


class Pair(NamedTuple):
    first: jax.Array
    second: jax.Array


CONTAINERS = {
    "integers": dict(enumerate(layers())),
    "tuples": {"a": ((X,), [X, None, ()]), "b": {}},
    "slashes": {"block/~/linear": {"w": X}, "block": {"linear/b": X}},
    "params": {"params": {"w": X}, "batch_stats": {"mean": X}},
    "a name and its parent": {"a": X, "a/b": X},
    "an empty key": {"": X, "/": X + 1, "c": X},
    "true": {True: X, False: X + 1},
}


@pytest.mark.parametrize("case", CONTAINERS)
def test_plain_containers_come_back_as_they_were(tmp_path, case):
    shrink.save(tmp_path / "tree", CONTAINERS[case])
    assert_equal(shrink.load(tmp_path / "tree")[0], CONTAINERS[case])


def test_a_tree_is_filled_by_name(tmp_path):
    shrink.save(tmp_path / "list", layers())
    like = {str(i): {"w": jnp.zeros((2, 5))} for i in range(12)}
    like = {"params": like | {"3": {"w": jax.ShapeDtypeStruct((2, 3), jnp.float32)}}}
    filled, widths = shrink.load(tmp_path / "list", like=like)
    assert_equal(filled, {"params": {str(i): x for i, x in enumerate(layers())}})
    assert widths["11/w"] == (2, 3)
    shrink.save(tmp_path / "pair", Pair(X, X + 1))
    with pytest.warns(
        UserWarning, match=r"saved from Pair, .*: load\(path, like=tree\)"
    ):
        loose, _ = shrink.load(tmp_path / "pair")
    assert_equal(loose, {"first": X, "second": X + 1})
    like = {"pair": jnp.tanh, "at": Pair(X, X)}
    shrink.save(tmp_path / "nested", {"at": Pair(X, X + 1)})
    filled, _ = shrink.load(tmp_path / "nested", like)
    assert filled["pair"] is jnp.tanh
    assert_equal(filled["at"], Pair(X, X + 1))


def test_a_tree_that_does_not_fit_is_an_error(tmp_path):
    path = tmp_path / "tree"
    shrink.save(path, {"a": jnp.ones((2, 3)), "b": jnp.ones(2)})
    message = f"`like` must have the names in {path}; missing: b; unexpected: c. Build"
    with pytest.raises(ValueError, match=message):
        _ = shrink.load(path, like={"a": jnp.ones((2, 3)), "c": jnp.ones(2)})
    for shape in ((2, 2), (2,), (2, 3, 1)):
        with pytest.raises(ValueError, match=r"at least the shape .* Is it another"):
            _ = shrink.load(path, like={"a": jnp.ones(shape), "b": jnp.ones(2)})
    with pytest.raises(ValueError, match="the same name 'a'"):
        _ = shrink.load(path, like={"params": {"a": X}, "a": X})


@pytest.mark.parametrize("bad", [jnp.tanh, "text", jax.random.key(0)])
def test_leaves_that_are_no_arrays_are_an_error(tmp_path, bad):
    message = "must hold arrays, got .* for 'f'. Keep the parameters alone, with eqx"
    with pytest.raises(TypeError, match=message):
        shrink.save(tmp_path / "bad", {"f": bad, "w": X})


def older(path, arrays):
    """Write a file as before the layout was kept in it."""
    widths = {"" if name == "/" else name: x.shape for name, x in arrays.items()}
    save_file(arrays, path, {"widths": json.dumps(widths)})


def test_older_files_are_loaded(tmp_path):
    x = np.ones((2, 3), np.float32)
    older(tmp_path / "plain", {"conv/w": x, "b": x})
    params, widths = shrink.load(tmp_path / "plain")
    assert_equal(params, {"conv": {"w": jnp.asarray(x)}, "b": jnp.asarray(x)})
    assert widths == {"conv/w": (2, 3), "b": (2, 3)}
    older(tmp_path / "bare", {"/": x})
    assert_equal(shrink.load(tmp_path / "bare")[0], jnp.asarray(x))
    older(
        tmp_path / "list",
        {f"{i}/w": np.asarray(y["w"]) for i, y in enumerate(layers())},
    )
    with pytest.warns(UserWarning, match=r"older version.*: load\(path, like=tree\)"):
        params, _ = shrink.load(tmp_path / "list")
    assert_equal(params, {str(i): y for i, y in enumerate(layers())})
    assert_equal(shrink.load(tmp_path / "list", like=layers(5))[0], layers())
