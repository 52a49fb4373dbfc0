"""Small models in other programs: the files, who reads them, and the table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

from examples.carry import __main__ as command, onnx_file, stablehlo, table
from examples.carry.cases import of_zeros
from examples.demo.network import LeNet
from examples.poster.models import NETWORKS
from examples.pretrained import model as llama
from examples.shrink.cases import function_of
from examples.shrink.models import LanguageModel, VisionTransformer

pytestmark = pytest.mark.costly

# name -> (module, sizes of its inputs)
NETWORKS_OF_ANY_BATCH = {
    "LeNet of the demo": (lambda rngs: LeNet(8, rngs=rngs), "b, 8, 8, 1"),
    "large LeNet-5": (NETWORKS["lenet5"], "b, 28, 28, 1"),
    "vision transformer": (VisionTransformer, "b, 8, 8, 1"),
    "language model": (lambda rngs: LanguageModel(9, rngs=rngs), "b, t"),
    "Llama": (
        lambda rngs: llama.Llama(
            llama.Config(9, 8, 1, 2, 2, 4, 6, 1e4, 1e-5, 16), rngs=rngs
        ),
        "b, t",
    ),
}


@pytest.mark.parametrize("name", NETWORKS_OF_ANY_BATCH)
def test_networks_take_a_symbolic_batch(name):
    make, sizes = NETWORKS_OF_ANY_BATCH[name]
    fn, params = function_of(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))))
    dtype = jnp.int32 if sizes == "b, t" else jnp.float32
    x = jax.ShapeDtypeStruct(export.symbolic_shape(sizes), dtype)
    assert jax.eval_shape(fn, params, x).shape[0] == x.shape[0]


@pytest.fixture(scope="module")
def small():
    """Give a network in which the third of four units is zero, without that unit."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    params = {"layers": [draw(3, 4), draw(4, 2)], "bias": draw(2)}
    params["layers"][1] = params["layers"][1].at[2].set(0)

    def fn(params, x):
        hidden = jnp.tanh(x @ params["layers"][0])
        return hidden @ params["layers"][1] + params["bias"]

    made = of_zeros("tiny", fn, params, draw(5, 3))
    assert made.widths["layers/1"] == (3, 2)
    return made, lambda x: np.asarray(fn(params, x))


def test_a_function_and_its_params_are_two_files(small, tmp_path):
    _ = pytest.importorskip("flatbuffers", reason="jax.export serializes by it")
    made, dense = small
    stablehlo.write(tmp_path, made)
    read = stablehlo.read(tmp_path)
    for x in (made.inputs, made.inputs[:2]):
        np.testing.assert_allclose(read(x), dense(x), rtol=0, atol=1e-6)
    assert stablehlo.READER.exists()
    for name in (stablehlo.FUNCTION, stablehlo.PARAMS):
        assert name in stablehlo.READER.read_text("utf-8")


@pytest.mark.long
def test_a_new_process_needs_jax_alone(small, tmp_path):
    _ = pytest.importorskip("flatbuffers", reason="jax.export serializes by it")
    made, dense = small
    stablehlo.write(tmp_path, made)
    batches = [np.asarray(x) for x in (made.inputs, made.inputs[:2])]
    found = stablehlo.outputs_elsewhere(tmp_path, batches)
    for actual, x in zip(found, batches, strict=True):
        np.testing.assert_allclose(actual, dense(x), rtol=0, atol=1e-6)


@pytest.mark.long
@pytest.mark.filterwarnings("default")  # of jax2onnx and what it imports
def test_onnxruntime_computes_the_same(small, tmp_path):
    for name in ("jax2onnx", "onnxruntime", "flatbuffers"):
        _ = pytest.importorskip(name)
    made, dense = small
    onnx_file.write(tmp_path, made)
    read = onnx_file.read(tmp_path)
    for x in (made.inputs, made.inputs[:2]):
        np.testing.assert_allclose(read(x), dense(x), rtol=0, atol=1e-6)
    first, second = table.carried(made, tmp_path, repeats=1)
    assert (first.route, second.route) == (table.STABLEHLO, table.ONNX)
    assert max(first.difference, second.difference) <= 1e-6
    assert second.bytes == (tmp_path / onnx_file.FILE).stat().st_size


def test_the_table_has_a_row_for_each_route(small, tmp_path, monkeypatch):
    made, dense = small
    wrong = lambda x: dense(x) + 0.5 * (len(x) > len(made.inputs))
    for module in (stablehlo, onnx_file):
        monkeypatch.setattr(module, "write", lambda folder, small: None)
        monkeypatch.setattr(module, "read", lambda folder: dense)
    monkeypatch.setattr(
        stablehlo, "outputs_elsewhere", lambda folder, xs: [dense(x) for x in xs]
    )
    for name in (stablehlo.FUNCTION, stablehlo.PARAMS, onnx_file.FILE):
        _ = (tmp_path / name).write_bytes(b"1234")
    rows = table.carried(made, tmp_path, 1, {"another": (wrong, 1234)})
    assert [row.bytes for row in rows] == [8, 4, 1234]
    assert rows[0].difference <= 1e-6
    assert rows[2].difference == pytest.approx(0.5)  # of the larger batch
    assert str(rows[2]).startswith("| tiny | another | 1,234 | 5e-01 of ")
    assert table.HEAD.count("|") - 7 == str(rows[2]).count("|")
    with pytest.raises(ValueError, match=r"shape \(5, 2\), got \(2,\)"):
        _ = table.largest_difference(np.zeros(2), np.zeros((5, 2)))


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(command.sys.modules, "jax2onnx", None)
    with pytest.raises(SystemExit, match=r"package jax2onnx .*Run: pip install x\.$"):
        command.check_installed(["jax", "jax2onnx"], "pip install x")
