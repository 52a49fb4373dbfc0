"""WHEN: the stagewise learning rate, averaging and restarts."""

from rmda_jax.schedules._stages import stages as stages
