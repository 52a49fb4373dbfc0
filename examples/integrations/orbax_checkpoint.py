"""Checkpoints with Orbax: stop anywhere, even killed, and go on to the same bits.

    python -m examples.integrations.orbax_checkpoint /tmp/run  # interrupt, run it again

Params and state are arrays and are saved as one tree. The arguments of the optimizer
are not in it: build it anew with the same. A digest lies beside the arrays, for Orbax
casts dtypes that differ without a word, and no format notices every flipped bit.
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp

import rmda_jax as rj
from examples.integrations._problem import RULES, batches, start, step_of


def optimizer() -> optax.MultiSteps:
    """Return RMDA with injected hyperparameters, a step for every two gradients."""
    stages = rj.stages(0.3, milestones=[30], averaging=0.1)
    inject = optax.inject_hyperparams(rj.rmda, static_args="restart_steps")
    return optax.MultiSteps(inject(regularizer=RULES, strength=0.04, **stages), 2)


def digest(tree: Any) -> str:
    """Return a fingerprint of every bit of a tree of arrays."""
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
    return hashlib.sha256(b"".join(leaves)).hexdigest()


def restore(manager: ocp.CheckpointManager, like: Any) -> Any:
    """Return the latest checkpoint, on the devices where ``like`` lies; or raise."""
    like = ocp.args.StandardRestore(like)
    args = ocp.args.Composite(tree=like, digest=ocp.args.JsonRestore())
    saved = manager.restore(manager.latest_step(), args=args)
    if digest(saved.tree) != saved.digest:
        raise ValueError("the checkpoint is corrupt, or was saved in other dtypes.")
    return saved.tree


def train(directory: Path, n_steps: int = 100, every: int = 5) -> Any:
    """Return params and state after so many gradients, from where the last run was."""
    tx, params = optimizer(), start()
    tree, step = (params, tx.init(params)), step_of(tx)
    with ocp.CheckpointManager(directory.absolute()) as manager:
        done = manager.latest_step() or 0
        tree = restore(manager, tree) if done else tree
        for count, (x, y) in enumerate(batches(n_steps), start=1):
            if count > done:
                tree = step(tree, x, y)
            if count > done and count % every == 0:
                seal = ocp.args.JsonSave(digest(tree))
                args = {"tree": ocp.args.StandardSave(tree), "digest": seal}
                _ = manager.save(count, args=ocp.args.Composite(**args))
    return tree


if __name__ == "__main__":
    params, state = train(Path(sys.argv[1]))
    print(RULES.report(rj.structured_params(state, RULES)))
