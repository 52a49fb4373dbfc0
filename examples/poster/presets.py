"""How each method trains on each task, and where every setting comes from.

Few settings of the poster were published. What the RAMDA paper or the released code of
RMDA and RAMDA says is taken from there; the rest is ours, and `Preset.sources` tells
one from the other, in every log. A strength of None is to be selected, by `selection`.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args

Method = Literal[
    "dense", "proxsgd", "proxssi", "proxgen", "ramda", "rmda", "rmda_l1", "rigl"
]
Structure = Literal["groups", "weights", "ranks"]  # what a method makes zero

METHODS: tuple[Method, ...] = get_args(Method)

RAMDA_PAPER = "published (RAMDA paper)"
RAMDA_CODE = "published (RAMDA code)"
LENET_CODE = "published (RAMDA code, for this network on Fashion-MNIST)"
RMDA_CODE = "published (RMDA code)"
POSTER = "published (poster)"
LIKE_LENET = "ours (unpublished; what the RAMDA code has for LeNet5)"
OURS = "ours"

_CIFAR = ("cifar10", "cifar10_jpeg75", "cifar100")
TASKS = (
    "logistic/mnist",
    *(
        f"{n}/{d}"
        for n in ("lenet5", "lenet5_small")
        for d in ("mnist", "fashion_mnist")
    ),
    *(f"{network}/{data}" for network in ("vgg19", "resnet50") for data in _CIFAR),
    "mlp/fashion_mnist",
)


@dataclasses.dataclass(frozen=True)
class Preset:
    """The settings of one method on one task."""

    task: str
    method: Method
    epochs: int
    milestones: tuple[int, ...]  # epochs after which a new stage begins
    learning_rate: float  # of the first stage
    strength: float | None  # of the regularizer; for rigl, the share of weights removed
    averaging: float = 0.1  # c of RMDA and RAMDA, rho of ProxSGD
    ramp: Literal["sqrt", "geometric"] = "sqrt"  # how c approaches 1
    weight_decay: float = 0.0
    structure: Structure = "groups"
    gamma: float = 0.1  # factor on the learning rate at a milestone
    batch_size: int = 128
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def network(self) -> str:
        return self.task.split("/")[0]

    @property
    def dataset(self) -> str:
        return self.task.split("/")[1]

    def changed(self, source: str, **settings: Any) -> "Preset":
        """Return the preset with other settings, all from one source."""
        sources = self.sources | dict.fromkeys(settings, source)
        return dataclasses.replace(self, **settings, sources=MappingProxyType(sources))

    def scaled(self, epochs: int) -> "Preset":
        """Return the preset for another number of epochs, its stages in proportion."""
        if epochs == self.epochs:
            return self
        milestones = (round(m * epochs / self.epochs) for m in self.milestones)
        given = self.changed("given", epochs=epochs)
        source = f"scaled from {self.sources['milestones']}"
        return given.changed(source, milestones=tuple(max(1, m) for m in milestones))


def preset(task: str, method: Method) -> Preset:
    """Return the settings of one of METHODS on one of TASKS.

    Raises:
      ValueError: There is no such task, or the method has no settings for it.
    """
    if task not in TASKS:
        raise ValueError(f"`task` must be one of {', '.join(TASKS)}, got {task!r}.")
    network = task.split("/")[0]
    if network in ("logistic", "mlp") and method in ("rmda_l1", "rigl"):
        raise ValueError(f"{method} has no settings for {task}.")
    if network == "mlp" and method == "proxssi":
        raise ValueError("proxssi has no nuclear norm: its authors solve groups only.")
    base = _schedule(task, method)
    for source, settings in _steps(network, method), _strength(task, method):
        base = base.changed(source, **settings)
    if network == "mlp":
        base = base.changed(RAMDA_PAPER, structure="ranks")
        if method in ("ramda", "rmda"):
            base = base.changed(RAMDA_PAPER, averaging=0.1)
    if method == "rmda_l1":
        base = base.changed(POSTER, structure="weights")
    if method == "rigl":
        stages = {"milestones": base.milestones, "gamma": base.gamma}
        base = base.changed(OURS, **stages)
    if task == "resnet50/cifar100" and method == "rmda":
        # The one network for which the poster's own script is public.
        base = base.changed(
            RMDA_CODE,
            epochs=1500,
            milestones=(150, 300, 450, 600),
            learning_rate=1.0,
            averaging=0.01,
            ramp="geometric",
            strength=1e-5,
        )
    return base


def strength_grid(settings: Preset) -> tuple[float, ...]:
    """Return the seven strengths that selection tries.

    They lie around the published strength, or else around one of ours that is the same
    for every method. For groups each is twice the one before; for weights, where a
    given sparsity has to be met, the square root of two times.
    """
    if settings.method in ("dense", "rigl"):
        raise ValueError(f"{settings.method} has no strength to select.")
    # On LeNet5 the RAMDA code has 1e-3 for 500 epochs; what fits shorter runs is less.
    center, ratio = (4e-4, 2**0.5) if settings.structure == "weights" else (2.5e-4, 2)
    center = settings.strength or center
    return tuple(float(f"{center * ratio**k:.3g}") for k in range(-3, 4))


def _schedule(task: str, method: Method) -> Preset:
    network = task.split("/")[0]
    epochs, milestones, source = {
        "logistic": (500, (100, 200, 300, 400), RAMDA_PAPER),
        "lenet5": (500, (100, 200, 300, 400), LENET_CODE),
        "lenet5_small": (500, (100, 200, 300, 400), LIKE_LENET),
        "mlp": (300, (100, 200), RAMDA_PAPER),
    }.get(network, (1000, (200, 400, 600, 800), RAMDA_CODE))
    sources = dict.fromkeys(("epochs", "milestones", "batch_size", "gamma"), source)
    sources |= {"structure": POSTER, "weight_decay": RAMDA_CODE, "ramp": RAMDA_PAPER}
    strength = 0.0 if method == "dense" else None
    return Preset(task, method, epochs, milestones, 0.1, strength, sources=sources)


def _steps(network: str, method: Method) -> tuple[str, dict[str, float]]:
    """Return learning rate and averaging, and where they come from."""
    convolutional = network in ("vgg19", "resnet50")
    if method in ("dense", "rigl"):
        # Without batch normalization, 0.1 with momentum 0.9 is too much.
        rate = 0.1 if convolutional else 0.01
        source = RAMDA_CODE if convolutional and method == "dense" else OURS
        decay = 0.0 if network == "logistic" else 5e-4
        return source, {"learning_rate": rate, "weight_decay": decay}
    if method == "rmda_l1":
        source = OURS
    elif convolutional:
        source = RAMDA_CODE
    elif network == "lenet5" and method != "proxssi":
        source = LENET_CODE
    elif (network, method) == ("logistic", "rmda"):
        source = RAMDA_PAPER
    else:
        source = LIKE_LENET
    if method in ("proxssi", "proxgen"):
        return source, {"learning_rate": 1e-3}
    if method == "ramda":
        return source, {"learning_rate": 0.01, "averaging": 0.01}
    return source, {"learning_rate": 0.1, "averaging": 0.1}


_COLUMNS = ("vgg19/cifar10", "vgg19/cifar100", "resnet50/cifar10", "resnet50/cifar100")
_STRENGTHS = {
    "proxsgd": (3e-5, 4e-5, 5e-5, 4e-5),
    "proxssi": (1e-6, 1e-6, 5e-7, 1e-6),
    "proxgen": (1e-6, 1e-6, 5e-7, 1e-6),
    "rmda": (1.5e-4, 1e-4, 5e-5, 2e-4),
    "ramda": (8e-7, 2e-7, 1e-6, 5e-7),
}
_NUCLEAR_STRENGTHS = {"proxsgd": 5e-3, "proxgen": 3.5e-3, "rmda": 5e-3, "ramda": 1e-3}


def _strength(task: str, method: Method) -> tuple[str, dict[str, float | None]]:
    network = task.split("/")[0]
    strength, source = None, "to be selected"
    if method == "dense":
        return "", {}
    if method == "rigl":
        strength, source = 0.98, POSTER
    elif network == "logistic":
        strength, source = 1e-3, RAMDA_PAPER
    elif network == "mlp":
        strength, source = _NUCLEAR_STRENGTHS[method], RAMDA_PAPER
    elif network in ("vgg19", "resnet50") and method in _STRENGTHS:
        column = _COLUMNS.index(task.removesuffix("_jpeg75"))
        strength, source = _STRENGTHS[method][column], RAMDA_CODE
    return source, {"strength": strength}
