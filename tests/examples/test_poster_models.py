"""The networks have the sizes, groups and initial weights of the authors' models."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.signal import correlate

from examples.poster.methods import REGULARIZERS
from examples.poster.models import NETWORKS, VGG19, Bottleneck, ConvNorm, max_pool

pytestmark = pytest.mark.costly

# Network: parameters, groups, and groups where a convolution counts by its kernels.
SIZES = {
    "logistic": (7_850, 784, 784),
    "mlp": (577_178, 1_792, 1_792),
    "lenet5": (431_080, 1_321, 2_320),
    "lenet5_small": (61_706, 611, 706),
    "vgg19": (20_040_522, 5_507, 2_224_832),
    "resnet50": (23_520_842, 24_579, 13_387_968),
}


def abstract(network: str, n_classes: int = 10) -> nnx.Module:
    return nnx.eval_shape(lambda: NETWORKS[network](n_classes, rngs=nnx.Rngs(0)))


def kernels(network: str) -> list[jax.ShapeDtypeStruct]:
    leaves = jax.tree.leaves_with_path(nnx.state(abstract(network), nnx.Param))
    return [leaf for path, leaf in leaves if "kernel" in jax.tree_util.keystr(path)]


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_have_the_published_sizes(network):
    params = nnx.state(abstract(network), nnx.Param)
    shapes = [kernel.shape for kernel in kernels(network)]
    n_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    n_groups = sum(shape[-2] for shape in shapes)
    n_kernels = sum(s[-2] * (s[-1] if len(s) == 4 else 1) for s in shapes)
    assert (n_params, n_groups, n_kernels) == SIZES[network]
    regularized = [
        bound.regularizer for bound in REGULARIZERS["groups"].resolve(params)
    ]
    assert sum(r is not None for r in regularized) == len(shapes)


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_map_images_to_logits(network):
    gray = network not in ("vgg19", "resnet50")
    images = jax.ShapeDtypeStruct(
        (2, 28, 28, 1) if gray else (2, 32, 32, 3), jnp.float32
    )

    def logits(images):
        model = NETWORKS[network](7, rngs=nnx.Rngs(0))
        model.eval()
        return model(images)

    assert jax.eval_shape(logits, images).shape == (2, 7)


def assert_uniform(x: jax.Array, bound: float) -> None:
    """Whether the numbers may come from U(-bound, bound), by maximum and deviation."""
    assert float(jnp.abs(x).max()) <= bound
    assert float(x.std()) == pytest.approx(
        bound / math.sqrt(3), rel=3 / math.sqrt(x.size)
    )


def test_lenet_begins_as_pytorch_begins():
    model = NETWORKS["lenet5"](10, rngs=nnx.Rngs(0))
    for layer, fan_in in (
        (model.conv1, 25),
        (model.conv2, 500),
        (model.dense1, 800),
        (model.dense2, 500),
    ):
        assert_uniform(layer.kernel[...], 1 / math.sqrt(fan_in))
        assert float(jnp.abs(layer.bias[...]).max()) <= 1 / math.sqrt(fan_in)
        assert float(jnp.abs(layer.bias[...]).max()) > 0.5 / math.sqrt(fan_in)


def test_vgg19_begins_as_torchvision_begins():
    class Short(VGG19):
        stages = ((64, 2),)

    model = Short(10, rngs=nnx.Rngs(0))
    kernel = model.layer1.conv.kernel[...]
    expected = math.sqrt(2 / (9 * 64))
    assert float(kernel.std()) == pytest.approx(expected, rel=0.02)
    assert float(jnp.abs(kernel).max()) > 3 * expected  # it is not truncated
    assert not jnp.any(model.layer1.conv.bias[...])
    assert float(model.head.kernel[...].std()) == pytest.approx(0.01, rel=0.1)


def test_resnet50_begins_as_pytorch_begins():
    block = Bottleneck(64, 16, 2, rngs=nnx.Rngs(0))
    for layer, fan_in in ((block.reduce, 64), (block.conv, 144), (block.expand, 16)):
        assert_uniform(layer.conv.kernel[...], 1 / math.sqrt(fan_in))
        assert layer.conv.bias is None
    assert [
        layer.conv.strides for layer in (block.reduce, block.conv, block.shortcut)
    ] == [
        1,
        2,
        2,
    ]


def test_logistic_regression_begins_at_the_origin():
    model = NETWORKS["logistic"](10, rngs=nnx.Rngs(0))
    assert not any(jnp.any(x) for x in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_pad_both_sides_alike_and_normalize(stride):
    # "SAME" would pad an even image with stride 2 on one side only.
    layer = ConvNorm(1, 1, 3, strides=stride, rngs=nnx.Rngs(0))
    layer.eval()
    layer.norm.mean[...], layer.norm.var[...] = jnp.array([0.3]), jnp.array([4.0])
    image = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    kernel = np.asarray(layer.conv.kernel[...]).squeeze()
    raw = correlate(image, kernel, mode="same")[::stride, ::stride]
    expected = (raw - 0.3) / math.sqrt(4 + 1e-5)
    result = layer(image[None, :, :, None]).squeeze()
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_running_statistics_take_a_tenth_of_each_batch():
    layer = ConvNorm(1, 1, 1, use_bias=False, rngs=nnx.Rngs(0))
    layer.train()
    images = np.random.default_rng(0).normal(3, 2, (16, 4, 4, 1)).astype(np.float32)
    scaled = images * float(layer.conv.kernel[...].squeeze())
    _ = layer(images)
    assert float(layer.norm.mean[0]) == pytest.approx(0.1 * scaled.mean(), rel=1e-4)
    assert float(layer.norm.var[0]) == pytest.approx(0.9 + 0.1 * scaled.var(), rel=1e-4)


def test_max_pool_takes_the_largest_of_four():
    x = np.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(max_pool(x).squeeze(), [[5, 7], [13, 15]])
