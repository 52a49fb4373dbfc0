"""What is left of a network without its zeros."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

import rmda_jax as rj
from examples._data import Split
from examples.demo.network import LeNet


def shrink(params: nnx.State, test: Split) -> dict[str, Any]:
    """Remove the units that zeros leave unread; return what it was and what it became.

    Each figure is a pair, before and after; latency is that of all test images.
    """
    image_size = test.images.shape[1]
    network = nnx.eval_shape(lambda: LeNet(image_size, rngs=nnx.Rngs(0)))
    graphdef = nnx.split(network, nnx.Param)[0]
    fn = lambda params, images: nnx.merge(graphdef, params)(images)
    plan = rj.shrink.plan(fn, params, test.images)
    small = rj.shrink.apply(plan, params)
    report = rj.shrink.report(fn, params, small, test.images, plan=plan)
    accuracies = [
        float(jnp.mean(jnp.argmax(fn(tree, test.images), axis=-1) == test.labels))
        for tree in (params, small)
    ]
    changes = {
        "parameters": report.parameters,
        "bytes": report.disk_bytes,
        "seconds": report.seconds,
    }
    return {
        "test_accuracy": accuracies,
        **{name: [change.before, change.after] for name, change in changes.items()},
    }
