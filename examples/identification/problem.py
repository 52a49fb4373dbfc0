"""Least squares, an infinite or a finite sum, whose optimum is known exactly.

The rows of the inputs are drawn with replacement. In the infinite sum they get fresh
Gaussian noise of deviation s, so that no gradient ever comes twice; in the finite sum s
is 0. The expected loss is a quadratic, for noise on the inputs acts as a ridge:

    f(W) = E |(x + s z) W - y|^2 / 2 = |X W - Y|^2 / (2 n) + s^2 |W|^2 / 2

With the group lasso on the rows of W its minimum is found in float64 and certified.
"""

from typing import NamedTuple

import numpy as np

NOISE = 0.3  # s, of the infinite sum
# The whole level per row: the norms are not multiplied by sqrt(3), the root of a row's
# length. A row of the solution is zero iff its gradient's norm is below this.
STRENGTH = 0.1
N_EXAMPLES, N_INPUTS, N_OUTPUTS, N_ACTIVE = 500, 40, 3, 8
N_DRIFTING = 2  # so many active rows go when the data drift, and as many others come


class Problem(NamedTuple):
    """The data, the expected loss <W, curvature W>/2 - <linear, W>, and its optimum."""

    inputs: np.ndarray  # (500, 40)
    targets: np.ndarray  # (500, 3)
    curvature: np.ndarray  # (40, 40)
    linear: np.ndarray  # (40, 3)
    optimum: np.ndarray  # (40, 3), float64; its zero rows are exactly zero
    noise: float  # s, 0 for the finite sum

    def gradient(self, params):
        """Return the gradient of the expected loss, for NumPy and JAX alike."""
        return self.curvature @ params - self.linear


def make_problem(noise: float = NOISE, drifted: bool = False) -> Problem:
    """Return the problem: 8 of 40 rows matter, and the optimum has those 8.

    Args:
      noise: s, of the inputs.
      drifted: Whether rows 6 and 7 have ceased to matter and rows 8 and 9 begun to;
        the inputs and the noise of the targets stay as they are.
    """
    rng = np.random.default_rng(3)
    inputs = rng.standard_normal((N_EXAMPLES, N_INPUTS))
    planted = np.zeros((N_INPUTS, N_OUTPUTS))
    planted[:N_ACTIVE] = rng.standard_normal((N_ACTIVE, N_OUTPUTS))
    errors = 0.5 * rng.standard_normal((N_EXAMPLES, N_OUTPUTS))
    if drifted:
        planted[N_ACTIVE - N_DRIFTING : N_ACTIVE] = 0
        new = rng.standard_normal((N_DRIFTING, N_OUTPUTS))
        planted[N_ACTIVE : N_ACTIVE + N_DRIFTING] = new
    targets = inputs @ planted + errors
    curvature = inputs.T @ inputs / N_EXAMPLES + noise**2 * np.eye(N_INPUTS)
    linear = inputs.T @ targets / N_EXAMPLES
    optimum = minimize(curvature, linear)
    return Problem(inputs, targets, curvature, linear, optimum, noise)


def minimize(curvature: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """Return the minimum, by proximal gradient steps until it is certified."""
    step = 1 / np.linalg.eigvalsh(curvature)[-1]
    params = np.zeros_like(linear)
    for _ in range(10_000):
        center = params - step * (curvature @ params - linear)
        norms = np.linalg.norm(center, axis=1, keepdims=True)
        params = center * np.maximum(1 - step * STRENGTH / norms, 0)
        if error_bound(curvature, linear, params) < 1e-12:
            return params
    raise RuntimeError("the optimum was not reached to 1e-12 in 10,000 steps")


def error_bound(curvature: np.ndarray, linear: np.ndarray, params: np.ndarray) -> float:
    """Return a bound on the distance of `params` from the optimum.

    By strong convexity that is at most the distance of 0 from the subdifferential,
    divided by the least curvature.
    """
    gradient = curvature @ params - linear
    norms = np.linalg.norm(params, axis=1, keepdims=True)
    active = norms > 0
    pull = STRENGTH * params / np.where(active, norms, 1)
    off_zero = np.maximum(np.linalg.norm(gradient, axis=1) - STRENGTH, 0)
    residuals = np.where(
        active[:, 0], np.linalg.norm(gradient + pull, axis=1), off_zero
    )
    return float(np.linalg.norm(residuals) / np.linalg.eigvalsh(curvature)[0])


def margins(problem: Problem) -> dict[str, float]:
    """Return how clear-cut the structure of the optimum is.

    Far from degenerate if the dual ratio of every zero row is well below 1, and the
    norm of every active row well above 0.
    """
    active = np.any(problem.optimum != 0, axis=1)
    duals = np.linalg.norm(problem.gradient(problem.optimum), axis=1) / STRENGTH
    norms = np.linalg.norm(problem.optimum, axis=1)
    return {
        "largest_dual_ratio": float(duals[~active].max()),
        "smallest_active_norm": float(norms[active].min()),
    }


def gradient_noise(problem: Problem, batch_size: int) -> float:
    """Return the root of the expected |g - grad f|^2 at the optimum, for a batch's g.

    By Isserlis' theorem, for an input x, its residual r and a standard normal z:

        E |x + s z|^2 |r + s z W|^2 = |x|^2 |r|^2
            + s^2 (|x|^2 |W|^2 + 40 |r|^2 + 4 <x W, r>) + s^4 (40 + 2) |W|^2
    """
    predictions = problem.inputs @ problem.optimum
    residuals = predictions - problem.targets
    x2, r2 = (np.sum(a**2, axis=1) for a in (problem.inputs, residuals))
    w2 = np.sum(problem.optimum**2)
    cross = np.sum(predictions * residuals, axis=1)
    s2 = problem.noise**2
    second = x2 * r2 + s2 * (x2 * w2 + N_INPUTS * r2 + 4 * cross)
    square = second.mean() + s2**2 * (N_INPUTS + 2) * w2
    variance = square - np.sum(problem.gradient(problem.optimum) ** 2)
    return float(np.sqrt(variance / batch_size))


def as_float32(problem: Problem) -> Problem:
    """Return the problem with all its numbers in float32, to be passed to a program."""
    return Problem(*(np.asarray(x, np.float32) for x in problem))
