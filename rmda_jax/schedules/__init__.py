"""WHEN and how much: learning rate, averaging and restarts of stages; budgets."""

from rmda_jax.schedules._annealing import parq_annealing as parq_annealing
from rmda_jax.schedules._budget import Budget as Budget, budget as budget
from rmda_jax.schedules._stages import stages as stages
