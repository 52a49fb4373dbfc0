"""The networks compute what PyTorch models of the same architecture compute.

The weights of the latter are transplanted, layer by layer. Runs where PyTorch is
installed, which the tests do not ask for; `examples.poster.models` has the figures.
"""

import numpy as np
import pytest
from flax import nnx

from examples.poster.models import NETWORKS, VGG19, ResNet50

torch = pytest.importorskip("torch")
nn = torch.nn


def conv_norm(n_in, n_out, window, stride=1):
    conv = nn.Conv2d(n_in, n_out, window, stride, window // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(n_out))


class Bottleneck(nn.Module):
    def __init__(self, n_in, width, stride):
        super().__init__()
        self.body = nn.Sequential(
            *(conv_norm(n_in, width, 1), nn.ReLU()),
            *(conv_norm(width, width, 3, stride), nn.ReLU()),
            conv_norm(width, 4 * width, 1),
        )
        if stride != 1 or n_in != 4 * width:
            self.shortcut = conv_norm(n_in, 4 * width, 1, stride)

    def forward(self, x):
        shortcut = self.shortcut(x) if hasattr(self, "shortcut") else x
        return torch.relu(self.body(x) + shortcut)


def lenet5():
    return nn.Sequential(
        *(nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)),
    )


def lenet5_small():
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
        nn.Linear(84, 10),
    )


def vgg19():
    layers, n_in = [], 3
    for width, n_layers in VGG19.stages:
        for _ in range(n_layers):
            conv = nn.Conv2d(n_in, width, 3, padding=1)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
            n_in = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


def resnet50():
    layers, n_in = [conv_norm(3, 64, 3), nn.ReLU()], 64
    for width, n_blocks, stride in ResNet50.stages:
        for i in range(n_blocks):
            layers.append(Bottleneck(n_in, width, stride if i == 0 else 1))
            n_in = 4 * width
    pool = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, *pool, nn.Linear(n_in, 10))


def layers_of(module):
    """Yield the layers with weights, in the order in which they were made."""
    for child in vars(module).values():
        if isinstance(child, nnx.Conv | nnx.Linear | nnx.BatchNorm):
            yield child
        elif isinstance(child, nnx.Module):
            yield from layers_of(child)


def transplant(theirs, ours):
    kinds = nn.Conv2d, nn.Linear, nn.BatchNorm2d
    sources = [layer for layer in theirs.modules() if isinstance(layer, kinds)]
    channels = 0
    for source, target in zip(sources, layers_of(ours), strict=True):
        state = {name: x.numpy() for name, x in source.state_dict().items()}
        if isinstance(source, nn.BatchNorm2d):
            target.scale[...] = state["weight"]
            target.mean[...] = state["running_mean"]
            target.var[...] = state["running_var"]
        elif isinstance(source, nn.Conv2d):
            channels = source.out_channels
            target.kernel[...] = state["weight"].transpose(2, 3, 1, 0)
        else:
            # PyTorch flattens channels before pixels, Flax pixels before channels.
            weight = state["weight"]
            if channels:
                weight = weight.reshape(len(weight), channels, -1).swapaxes(1, 2)
            channels = 0
            target.kernel[...] = weight.reshape(len(weight), -1).T
        if "bias" in state:
            target.bias[...] = state["bias"]


@pytest.mark.parametrize("make", [lenet5, lenet5_small, vgg19, resnet50])
def test_networks_compute_what_pytorch_computes(make):
    _ = torch.manual_seed(0)
    theirs, ours = make(), NETWORKS[make.__name__](10, rngs=nnx.Rngs(0))
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):  # which begins with zeros and ones
            for x in (layer.weight.data, layer.bias.data, layer.running_mean):
                _ = x.uniform_(0.5, 1.5)
            _ = layer.running_var.uniform_(0.5, 1.5)
    transplant(theirs, ours)
    shape = (16, 28, 28, 1) if "lenet" in make.__name__ else (16, 32, 32, 3)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for mode, tolerance in (("eval", 1e-5), ("train", 1e-3)):
        getattr(ours, mode)()
        getattr(theirs, mode)()
        with torch.no_grad():
            expected = theirs(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
        error = np.abs(np.asarray(ours(images)) - expected).max()
        print(make.__name__, mode, np.abs(expected).max(), error)
        assert error <= tolerance * np.abs(expected).max()
