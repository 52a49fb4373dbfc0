"""The projection onto the l1/2 ball, a nonconvex set with pointed corners."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from rmda_jax.regularizers._checks import check_parameter
from rmda_jax.regularizers._sets import FeasibleSet
from rmda_jax.regularizers._spelling import call


@dataclasses.dataclass(frozen=True, repr=False)
class LHalfBall(FeasibleSet):
    r"""The nonconvex set :math:`\{\sum_i \sqrt{|x_i|} \le \text{radius}\}`.

    The projection keeps some k largest entries. On them stationarity
    :math:`y + \mu/(2\sqrt y) = |x|` gives every :math:`y` as the larger root, but for
    the smallest kept entry, which may sit on the smaller one. Walking that entry
    :math:`s` from 0 to :math:`|x_k|` determines :math:`\mu = 2\sqrt s(|x_k| - s)` and
    with it the others, so that each k leaves one scalar equation; the candidate nearest
    to ``x`` wins. Its time is quadratic in the number of entries, though its memory is
    linear: meant for a few hundred.
    """

    radius: float = 1.0
    samples: int = 64

    def __post_init__(self):
        check_parameter("radius", self.radius, above=0)

    def __str__(self) -> str:
        return call(
            "l_half_ball", **({} if self.radius == 1 else {"radius": self.radius})
        )

    def _prox(self, x: jax.Array, t: jax.Array) -> jax.Array:
        del t
        return _nearest(self, x)

    def _on_support(
        self, a: jax.Array, kept: jax.Array, smallest: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return the loss and the last entry of the best boundary point on ``kept``."""

        def surplus(s: jax.Array) -> jax.Array:
            return jnp.sum(jnp.sqrt(_point(a, kept, smallest, s))) - self.radius

        # The surplus need not be monotone in s: bracket its sign changes, bisect each.
        # One sample at a time: all of them together are so many arrays like `a`.
        grid = smallest * jnp.square(jnp.linspace(0, 1, self.samples, dtype=a.dtype))
        signs = lax.map(surplus, grid)
        crossing = (signs[:-1] <= 0) != (signs[1:] <= 0)

        def bisect(low: jax.Array, high: jax.Array) -> jax.Array:
            rising = surplus(low) <= 0

            def halve(_, bracket):
                low, high = bracket
                middle = (low + high) / 2
                left = (surplus(middle) <= 0) == rising
                return jnp.where(left, middle, low), jnp.where(left, high, middle)

            low, high = lax.fori_loop(0, 60, halve, (low, high))
            return (low + high) / 2

        def loss_and_root(low: jax.Array, high: jax.Array) -> tuple[jax.Array, ...]:
            s = bisect(low, high)
            return jnp.sum(jnp.square(_point(a, kept, smallest, s) - a)), s

        def none(low: jax.Array, high: jax.Array) -> tuple[jax.Array, ...]:
            del high
            return jnp.full_like(low, jnp.inf), low

        losses, roots = lax.map(
            lambda bracket: lax.cond(bracket[0], loss_and_root, none, *bracket[1:]),
            (crossing, grid[:-1], grid[1:]),
        )
        best = jnp.argmin(losses)
        return losses[best], roots[best]


# Under `jit`, because an eager call would compile the loop anew every time.
@functools.partial(jax.jit, static_argnames="ball", inline=True)
def _nearest(ball: LHalfBall, x: jax.Array) -> jax.Array:
    """Return the point of the ball nearest to x."""
    if x.size == 0:
        return x
    a = jnp.abs(x).ravel()
    order = jnp.argsort(-a)
    a = a[order]
    index = jnp.arange(a.size)

    # One scalar per k is kept, not its point: n points would take n^2 memory.
    def candidate(k: jax.Array) -> tuple[jax.Array, jax.Array]:
        return ball._on_support(a, index < k, a[k - 1])

    losses, lasts = lax.map(candidate, index + 1)
    k = jnp.argmin(losses) + 1
    best = _point(a, index < k, a[k - 1], lasts[k - 1])
    inside = jnp.sum(jnp.sqrt(a)) <= ball.radius
    y = jnp.zeros_like(a).at[order].set(jnp.where(inside, a, best))
    y = jnp.where(jnp.any(jnp.isnan(a)), jnp.nan, y)
    return jnp.where(x < 0, -y.reshape(x.shape), y.reshape(x.shape))


def _point(
    a: jax.Array, kept: jax.Array, smallest: jax.Array, s: jax.Array
) -> jax.Array:
    """Return the stationary point on ``kept`` whose smallest kept entry is ``s``."""
    mu = 2 * jnp.sqrt(s) * jnp.maximum(smallest - s, 0)
    last = jnp.arange(a.size) == jnp.sum(kept) - 1
    return jnp.where(kept, jnp.where(last, s, _larger_root(a, mu)), 0)


def _larger_root(a: jax.Array, mu: jax.Array) -> jax.Array:
    """Return the larger root y of ``y + mu / (2 sqrt(y)) = a`` (Cardano, cosine)."""
    safe = jnp.where(a > 0, a, 1)
    cosine = jnp.clip(-mu / 4 * (safe / 3) ** -1.5, -1, 1)
    root = 2 * jnp.sqrt(safe / 3) * jnp.cos(jnp.arccos(cosine) / 3)
    return jnp.where(a > 0, root * root, 0)
