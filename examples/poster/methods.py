"""The optimizer of each method, the params with its structure, and their measures."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import rmda_jax as rj
from examples.poster.presets import Preset

# In Flax kernels are (..., in, out): axis -2 makes one group of all the weights that
# leave an input channel (convolution) or an input neuron (dense layer). First and last
# layer are regularized as well; biases and batch normalization are not.
REGULARIZERS = {
    "groups": rj.RegularizerMap([("*/kernel", rj.group_lasso(group_axes=-2))]),
    "weights": rj.RegularizerMap([("*/kernel", rj.l1())]),
    "ranks": rj.RegularizerMap([("*/kernel", rj.nuclear_norm())]),
}
# The three ways to count groups, and their names in the logs: see `rj.metrics`.
WEIGHTINGS = {
    "groups": "unweighted",
    "groups_by_size": "size",
    "groups_by_kernel": "kernel",
}
RIGL_DROP = 0.3
RIGL_EVERY = 100
RIGL_END = 3 / 4  # of the run


def make_optimizer(
    preset: Preset,
    steps_per_epoch: int,
    strength: jax.Array | float,
    key: jax.Array | None = None,
) -> optax.GradientTransformation:
    """Return the optimizer of the preset's method.

    Args:
      preset: The settings.
      steps_per_epoch: Updates in an epoch, the last partial batch among them.
      strength: In place of the preset's; it may be traced. RigL's share of weights is
        that of the preset, because it decides how many there are.
      key: For the places of RigL's first weights.
    """
    regularizer = REGULARIZERS[preset.structure]
    stages = rj.stages(
        preset.learning_rate,
        preset.milestones,
        gamma=preset.gamma,
        averaging=preset.averaging,
        ramp=preset.ramp,
        steps_per_epoch=steps_per_epoch,
    )
    rate = stages["learning_rate"]
    # Only the nuclear norm has to be solved for by iterations: as in the RAMDA paper.
    inner = {"rtol": 1e-3, "max_iters": 5} if preset.structure == "ranks" else {}
    match preset.method:
        case "rmda" | "rmda_l1":
            return rj.rmda(regularizer=regularizer, strength=strength, **stages)
        case "ramda":
            return rj.ramda(
                regularizer=regularizer,
                strength=strength,
                eps_decay=preset.gamma,
                **inner,
                **stages,
            )
        case "proxsgd":
            return rj.proxsgd(rate, regularizer, strength, averaging=preset.averaging)
        case "proxgen":
            return rj.proxgen(rate, regularizer, strength, **inner)
        case "proxssi":
            return rj.proxssi(rate, regularizer, strength)
    sgd = optax.chain(
        optax.add_decayed_weights(preset.weight_decay),
        optax.sgd(rate, momentum=0.9, nesterov=preset.method == "rigl"),
    )
    if preset.method == "dense":
        return sgd
    end_step = int(RIGL_END * preset.epochs * steps_per_epoch)
    return rj.rigl(
        sgd,
        preset.strength,
        where="*/kernel",
        update_every=min(RIGL_EVERY, max(1, end_step)),
        end_step=end_step,
        drop_fraction=RIGL_DROP,
        key=key,
    )


def structured_params(
    preset: Preset, params: nnx.State, opt_state: optax.OptState
) -> nnx.State:
    """Return the params that carry the structure: those to measure and to deploy."""
    if preset.method in ("rmda", "rmda_l1", "ramda"):
        return rj.structured_params(opt_state, REGULARIZERS[preset.structure])
    if preset.method == "rigl":
        return rj.rigl_params(opt_state, params)
    return params


def measure(
    preset: Preset, structured: nnx.State, opt_state: optax.OptState
) -> dict[str, jax.Array]:
    """Return the shares of groups and of weights that are exactly zero.

    Where the structure is low rank, the share of singular values that are zero stands
    in the place of the groups: those that the prox itself shrank if the optimizer still
    knows them (RMDA, RAMDA), else those of a new decomposition, within its tolerance.
    """
    shares = {"weights": rj.metrics.sparsity(structured, REGULARIZERS["groups"])}
    if preset.structure != "ranks":
        for name, weighting in WEIGHTINGS.items():
            shares[name] = rj.metrics.group_sparsity(
                structured, REGULARIZERS["groups"], weighting=weighting
            )
        return shares
    regularizer = REGULARIZERS["ranks"]
    if preset.method in ("rmda", "ramda"):
        supports = rj.structured_support(opt_state, regularizer)
    else:
        supports = regularizer.support(structured)
    zero = jnp.concatenate([~leaf.ravel() for leaf in jax.tree.leaves(supports)])
    return shares | {"groups": zero.mean()}
