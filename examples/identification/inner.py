"""Which optimizers find the structure from inside of AProx and of the normal map?"""

import functools
from collections.abc import Callable
from typing import Any

import optax
import optax.contrib

import rmda_jax as rj
from examples.identification.methods import (
    MOMENTUM,
    REGULARIZER,
    Setting,
    averaged_sgd,
    in_stages,
)
from examples.identification.problem import STRENGTH

Rate = Callable[[Any], Any]
# All settings but the learning rate are those of Optax, with two exceptions. SGD with
# momentum is there twice, with the sum of the gradients, as Optax has it, and with
# their average. The steps of Adafactor are not multiplied by the size of the params:
# from 0 the normal map would pull back more than such steps move, and never leave it.
INNER: dict[str, Callable[[Rate], optax.GradientTransformation]] = {
    "SGD": optax.sgd,
    "SGD, momentum": functools.partial(optax.sgd, momentum=MOMENTUM),
    "SGD, averaged": averaged_sgd,
    "Schedule-Free": optax.contrib.schedule_free_sgd,
    "AdamW": optax.adamw,
    "Adafactor": functools.partial(optax.adafactor, multiply_by_parameter_scale=False),
    "Lion": optax.lion,
    "Muon": optax.contrib.muon,
}
AROUND = ("AProx", "normal map")
# What `selection` chose, as METHODS.
SELECTED = {
    "AProx, SGD": Setting(0.003),
    "AProx, SGD, momentum": Setting(3e-4, 10.0),
    "AProx, SGD, averaged": Setting(0.003),
    "AProx, Schedule-Free": Setting(0.1, 0.1),
    "AProx, AdamW": Setting(0.1, 5.0),
    "AProx, Adafactor": Setting(0.03, 5.0),
    "AProx, Lion": Setting(0.03, 10.0),
    "AProx, Muon": Setting(0.003, 2.0),
    "normal map, SGD": Setting(0.003),
    "normal map, SGD, momentum": Setting(0.001, 10.0),
    "normal map, SGD, averaged": Setting(0.003),
    "normal map, Schedule-Free": Setting(0.1, 0.1),
    "normal map, AdamW": Setting(0.1, 5.0),
    "normal map, Adafactor": Setting(0.03, 5.0),
    "normal map, Lion": Setting(0.01, 10.0),
    "normal map, Muon": Setting(0.003, 2.0),
}


def make_inner(
    around: str, inner: str, setting: Setting, n_steps: int
) -> optax.GradientTransformation:
    """Return one of AROUND around one of INNER; the setting may be traced."""
    schedule = in_stages(setting.decays, n_steps)["learning_rate"]
    rate = lambda count: setting.learning_rate * schedule(count)
    wrap = rj.aprox if around == "AProx" else rj.normal_map
    return wrap(INNER[inner](rate), rate, REGULARIZER, setting.factor * STRENGTH)
