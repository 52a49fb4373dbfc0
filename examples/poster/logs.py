"""What a run leaves behind: a log of JSON lines, and a checkpoint to resume from.

The first line of a log is the configuration, every other one an epoch, with lists over
the members. A line is on the disk before the next epoch begins, and a checkpoint comes
after the lines that it is about: a run that was killed loses the epochs since its last
checkpoint and nothing else. Their lines are dropped, and written anew.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from examples.poster.train import Member

Json = dict[str, Any]
DIGITS = 5


class Log(NamedTuple):
    """The content of a log."""

    config: Json
    epochs: list[Json]

    @property
    def is_complete(self) -> bool:
        return len(self.epochs) >= self.config["epochs"]


def read(path: Path) -> Log:
    """Read a log; the last line may be cut off."""
    config, *epochs = read_lines(path)
    return Log(config, epochs)


def read_lines(path: Path) -> list[Json]:
    """Read all lines of a file, none if it does not exist."""
    return [json.loads(line) for line in _whole_lines(path)] if path.exists() else []


def start(path: Path, config: Json) -> None:
    """Begin a log with its configuration, in the place of an older one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _ = path.write_text("")
    append(path, config)


def append(path: Path, line: Json) -> None:
    """Add a line, and wait until it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        _drop_half_a_line(path)
    with path.open("a") as file:
        _ = file.write(json.dumps(line, default=_plain, separators=(",", ":")) + "\n")
        file.flush()
        os.fsync(file.fileno())


def truncate(path: Path, n_epochs: int) -> None:
    """Drop all epochs after the first `n_epochs`."""
    _replace(path, _whole_lines(path)[: 1 + n_epochs])


class Checkpoints:
    """The latest members of a run, in a folder of their own."""

    def __init__(self, folder: Path):
        # Synchronous: the next epoch reuses the memory of what is being saved.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1, enable_async_checkpointing=False
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    @property
    def epoch(self) -> int:
        """The number of epochs behind the latest checkpoint; 0 if there is none."""
        return self._manager.latest_step() or 0

    def save(self, epoch: int, members: Member) -> None:
        leaves = jax.tree.leaves(members)
        _ = self._manager.save(epoch, args=ocp.args.StandardSave(leaves), force=True)

    def restore(self, members: Member) -> Member:
        """Return the latest members; those given say what shapes they have."""
        leaves, treedef = jax.tree.flatten(members)
        abstract = [ocp.utils.to_shape_dtype_struct(leaf) for leaf in leaves]
        leaves = self._manager.restore(
            self.epoch, args=ocp.args.StandardRestore(abstract)
        )
        return treedef.unflatten(leaves)

    def clear(self) -> None:
        for step in self._manager.all_steps():
            self._manager.delete(step)

    def close(self) -> None:
        self._manager.close()


def _whole_lines(path: Path) -> list[str]:
    *lines, _ = path.read_text().split("\n")
    return lines


def _drop_half_a_line(path: Path) -> None:
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        _replace(path, _whole_lines(path))


def _replace(path: Path, lines: list[str]) -> None:
    whole = path.with_suffix(".tmp")
    _ = whole.write_text("".join(f"{line}\n" for line in lines))
    _ = whole.replace(path)


def _plain(value: Any) -> Any:
    """Return an array as rounded numbers, which is what keeps the logs small."""
    return np.round(np.asarray(value, float), DIGITS).tolist()
