"""The results that the report shows, of all the logs there are."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from examples.poster.data import SPECS
from examples.poster.logs import Json, Log
from examples.poster.presets import METHODS, TASKS

NETWORKS = {
    "logistic": "Logistic regression",
    "lenet5": "LeNet5 (large)",
    "lenet5_small": "LeNet5 (small)",
    "vgg19": "VGG19",
    "resnet50": "ResNet50",
    "mlp": "MLP",
}
NAMES = {
    "dense": "Dense",
    "proxsgd": "ProxSGD",
    "proxssi": "ProxSSI",
    "proxgen": "ProxGen",
    "ramda": "RAMDA",
    "rmda": "RMDA",
    "rmda_l1": "RMDA, l1",
    "rigl": "RigL",
}


class Result(NamedTuple):
    """The runs of one method on one task, which differ in their seeds alone."""

    config: Json
    seeds: list[int]
    curves: dict[str, np.ndarray]  # (epochs, seeds)


Results = dict[tuple[str, str], Result]  # by task and method


def best_results(found: Iterable[Log]) -> Results:
    """Return the result to show for each task and method, of all complete runs.

    Runs that differ in their seeds alone are one result. Of several results the one of
    most epochs is shown, and of those the one of most seeds.
    """
    groups: dict[str, list[Log]] = defaultdict(list)
    for log in found:
        key = ("task", "method", "epochs", "strengths", "dtype", "settings")
        if log.config["kind"] == "run" and log.is_complete:
            groups[repr([log.config[k] for k in key])].append(log)
    results: Results = {}
    for group in groups.values():
        result = _joined(group)
        key = result.config["task"], result.config["method"]
        if key not in results or _rank(result) > _rank(results[key]):
            results[key] = result
    position = lambda key: (TASKS.index(key[0]), METHODS.index(key[1]))
    return {key: results[key] for key in sorted(results, key=position)}


def title(task: str) -> str:
    """Return a task's name as the poster writes it."""
    network, dataset = task.split("/")
    return f"{NETWORKS[network]} / {SPECS[dataset].title}"


def _joined(group: list[Log]) -> Result:
    names = set(group[0].epochs[0]) - {"epoch", "seconds"}
    curves = {
        name: np.concatenate([[e[name] for e in log.epochs] for log in group], axis=1)
        for name in names
    }
    seeds = [seed for log in group for seed in log.config["seeds"]]
    return Result(group[0].config, seeds, curves)


def _rank(result: Result) -> tuple[int, int]:
    return result.config["epochs"], len(result.seeds)
