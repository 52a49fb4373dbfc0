r"""Scalar penalties :math:`\varphi(r)` of a magnitude :math:`r \ge 0`.

Each knows its value, its derivative from the right (at 0: how hard it pushes towards
zero) and its prox :math:`\arg\min_{y \ge 0} \tfrac12 (y - r)^2 + t\varphi(y)`, always
the global minimiser. ``r`` and ``t`` are arrays that broadcast; ``t = 0`` returns
``r``. Comparisons are written so that NaN takes the branch that returns NaN; a NaN
weight must never become 0. `_geometries` defines magnitudes.
"""

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from rmda_jax.regularizers._checks import check_parameter
from rmda_jax.regularizers._spelling import arguments
from rmda_jax.regularizers.solvers._critical_level import critical_level


class AffineSlope(NamedTuple):
    r"""The derivative :math:`\text{slope} + \text{curvature}\, r` up to ``knee``.

    From the knee on the penalty is constant.
    """

    slope: float
    curvature: float
    knee: float


LINEAR = AffineSlope(1.0, 0.0, float("inf"))


class Penalty(abc.ABC):
    """A scalar function of a magnitude, nondecreasing and 0 at 0.

    Its parameters are the arguments of the factory that has its name, on entries.
    """

    name: ClassVar[str]
    is_convex = False
    is_homogeneous = False

    @property
    def affine_slope(self) -> AffineSlope | None:
        """The derivative, where it is affine up to a knee and 0 beyond; else None."""
        return None

    def spelled(self) -> tuple[str, dict[str, Any]]:
        """Return the name of its factory, and the arguments that are no defaults."""
        return self.name, arguments(self)

    @abc.abstractmethod
    def value(self, r: jax.Array) -> jax.Array:
        r"""Return :math:`\varphi(r)`, elementwise."""

    @abc.abstractmethod
    def derivative(self, r: jax.Array) -> jax.Array:
        r"""Return :math:`\varphi'(r)` from the right, elementwise."""

    @abc.abstractmethod
    def prox(self, r: jax.Array, t: jax.Array) -> jax.Array:
        r"""Return :math:`\arg\min_{y\ge0} \tfrac12(y-r)^2 + t\varphi(y)`."""

    def critical_level(self, r: jax.Array) -> jax.Array:
        """Return the least t at which the prox of ``r`` is 0, elementwise."""
        level = self.group_critical_level(r, jnp.square(r))
        if level is None:
            return critical_level(self.value, self.derivative, self.prox, r)
        return level

    def group_critical_level(
        self, pull: jax.Array, energy: jax.Array
    ) -> jax.Array | None:
        r"""Return the least t at which a group in a diagonal metric is 0.

        Args:
          pull: :math:`\|d x\|`.
          energy: :math:`\sum d x^2`. In the metric 1 it is the square of the pull.

        Returns:
          Array of their shape; None where these two do not say it.
        """
        del pull, energy
        return None


@dataclasses.dataclass(frozen=True)
class Abs(Penalty):
    """The magnitude itself: l1, group lasso, nuclear norm."""

    name = "l1"
    is_convex = True
    is_homogeneous = True

    @property
    def affine_slope(self) -> AffineSlope:
        return LINEAR

    def value(self, r: jax.Array) -> jax.Array:
        return r

    def derivative(self, r: jax.Array) -> jax.Array:
        return jnp.ones_like(r)

    def prox(self, r: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.maximum(r - t, 0)

    def group_critical_level(self, pull: jax.Array, energy: jax.Array) -> jax.Array:
        del energy
        return pull


@dataclasses.dataclass(frozen=True)
class Elastic(Penalty):
    r""":math:`\rho r + \tfrac{1-\rho}2 r^2`: elastic net; :math:`\rho=0` is ridge."""

    l1_ratio: float = 0.5

    name = "elastic_net"
    is_convex = True

    @property
    def affine_slope(self) -> AffineSlope:
        return AffineSlope(self.l1_ratio, 1 - self.l1_ratio, float("inf"))

    def spelled(self) -> tuple[str, dict[str, Any]]:
        return ("squared_l2", {}) if self.l1_ratio == 0 else super().spelled()

    def __post_init__(self):
        check_parameter("l1_ratio", self.l1_ratio, at_least=0, at_most=1)

    def value(self, r: jax.Array) -> jax.Array:
        return self.l1_ratio * r + 0.5 * (1 - self.l1_ratio) * r * r

    def derivative(self, r: jax.Array) -> jax.Array:
        return self.l1_ratio + (1 - self.l1_ratio) * r

    def prox(self, r: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.maximum(r - t * self.l1_ratio, 0) / (1 + t * (1 - self.l1_ratio))

    def group_critical_level(self, pull: jax.Array, energy: jax.Array) -> jax.Array:
        del energy
        if self.l1_ratio == 0:
            return jnp.where(pull == 0, 0, pull + jnp.inf)
        return pull / self.l1_ratio


@dataclasses.dataclass(frozen=True)
class MCP(Penalty):
    r"""Minimax concave penalty (Zhang, 2010, eq. 2.1).

    .. math:: \varphi(r) = \lambda_0 r - \frac{r^2}{2\gamma}\ (r \le \gamma\lambda_0),
        \qquad \tfrac12\gamma\lambda_0^2\ \text{beyond}
    """

    lam: float = 1.0
    gamma: float = 3.0

    name = "mcp"

    def __post_init__(self):
        check_parameter("lam", self.lam, above=0)
        check_parameter("gamma", self.gamma, above=0)

    @property
    def affine_slope(self) -> AffineSlope:
        return AffineSlope(self.lam, -1 / self.gamma, self.gamma * self.lam)

    def value(self, r: jax.Array) -> jax.Array:
        r = jnp.minimum(r, self.gamma * self.lam)
        return self.lam * r - r * r / (2 * self.gamma)

    def derivative(self, r: jax.Array) -> jax.Array:
        return jnp.maximum(self.lam - r / self.gamma, 0)

    def prox(self, r: jax.Array, t: jax.Array) -> jax.Array:
        # t < gamma: the objective is strictly convex, a steeper soft threshold.
        # Otherwise it is concave up to the knee: a hard threshold is left.
        convex = t < self.gamma
        ratio = jnp.where(convex, t, 0) / self.gamma
        firm = jnp.maximum(r - t * self.lam, 0) / (1 - ratio)
        # As t nears gamma the quotient is 0/0: without the bound, rounding decides.
        firm = jnp.where(r > self.gamma * self.lam, r, jnp.minimum(firm, r))
        hard = jnp.where(r <= self.lam * jnp.sqrt(t * self.gamma), 0, r)
        return jnp.where(convex, firm, hard)

    def group_critical_level(self, pull: jax.Array, energy: jax.Array) -> jax.Array:
        # Better than 0 is a step from 0 or, beyond the knee, the centre itself. Short
        # of the knee the centre's ratio is the smaller of the two.
        flat = self.gamma * self.lam * self.lam
        return jnp.maximum(pull / self.lam, energy / flat)


@dataclasses.dataclass(frozen=True)
class SCAD(Penalty):
    r"""Smoothly clipped absolute deviation (Fan & Li, 2001).

    Slope :math:`\lambda_0` up to :math:`\lambda_0`, then falling linearly to 0 at
    :math:`a\lambda_0`, constant beyond.
    """

    lam: float = 1.0
    a: float = 3.7

    name = "scad"

    def __post_init__(self):
        check_parameter("lam", self.lam, above=0)
        check_parameter("a", self.a, above=2)

    def value(self, r: jax.Array) -> jax.Array:
        lam, a = self.lam, self.a
        middle = (2 * a * lam * r - r * r - lam * lam) / (2 * (a - 1))
        flat = jnp.where(r > a * lam, 0.5 * lam * lam * (a + 1), middle)
        return jnp.where(r <= lam, lam * r, flat)

    def derivative(self, r: jax.Array) -> jax.Array:
        falling = jnp.maximum(self.a * self.lam - r, 0) / (self.a - 1)
        return jnp.where(r < self.lam, self.lam, falling)

    def prox(self, r: jax.Array, t: jax.Array) -> jax.Array:
        lam, a = self.lam, self.a
        soft = jnp.maximum(r - t * lam, 0)
        convex = t < a - 1
        ratio = jnp.where(convex, t, 0) / (a - 1)
        # As t nears a - 1 the quotient is 0/0: without bounds, rounding decides.
        falling = jnp.clip((r - ratio * a * lam) / (1 - ratio), lam, r)
        unique = jnp.where(r <= lam * (1 + t), soft, falling)
        unique = jnp.where(r > a * lam, r, unique)
        # t >= a - 1: concave on the falling piece, so the minimum lies on an outer one.
        near, far = jnp.minimum(soft, lam), jnp.maximum(r, a * lam)
        loss_near = 0.5 * jnp.square(near - r) + t * self.value(near)
        loss_far = 0.5 * jnp.square(far - r) + t * self.value(far)
        return jnp.where(convex, unique, jnp.where(loss_far < loss_near, far, near))

    def critical_level(self, r: jax.Array) -> jax.Array:
        # As for MCP. In a metric the falling piece may hold another minimum.
        flat = (self.a + 1) * self.lam * self.lam
        return jnp.maximum(r / self.lam, jnp.square(r) / flat)


@dataclasses.dataclass(frozen=True)
class L0(Penalty):
    """1 for every nonzero magnitude: a hard threshold at sqrt(2 t)."""

    name = "l0"

    def value(self, r: jax.Array) -> jax.Array:
        return jnp.where(jnp.isnan(r), r, (r > 0).astype(r.dtype))

    def derivative(self, r: jax.Array) -> jax.Array:
        return jnp.where(r > 0, 0.0, jnp.inf).astype(r.dtype)

    def prox(self, r: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.where(r <= jnp.sqrt(2 * t), 0, r)

    def group_critical_level(self, pull: jax.Array, energy: jax.Array) -> jax.Array:
        del pull
        return energy / 2


@dataclasses.dataclass(frozen=True)
class Lq(Penalty):
    r""":math:`r^q` with :math:`0 < q < 1`: thresholds, then shrinks little.

    The minimiser is 0 up to :math:`h = \frac{2-q}{2(1-q)} (2t(1-q))^{1/(2-q)}` and
    from there the larger root of :math:`y + t q y^{q-1} = r` (Marjanovic & Solo,
    2012). The left side is convex, so Newton from :math:`y = r` falls to the root
    monotonically; at :math:`r \ge h` the root is simple, and six steps reach float64.
    For q = 1/2 and 2/3 trigonometric forms exist (Xu et al., 2012); this is as exact
    and covers every q.
    """

    q: float

    name = "lq"

    def __post_init__(self):
        check_parameter("q", self.q, above=0, below=1)

    def value(self, r: jax.Array) -> jax.Array:
        # The power has an infinite slope at 0; the double where keeps gradients finite.
        return jnp.where(r == 0, 0, jnp.where(r == 0, 1, r) ** self.q)

    def derivative(self, r: jax.Array) -> jax.Array:
        slope = self.q * jnp.where(r > 0, r, 1) ** (self.q - 1)
        return jnp.where(r > 0, slope, jnp.inf)

    def prox(self, r: jax.Array, t: jax.Array) -> jax.Array:
        q = self.q
        jump = (2 * t * (1 - q)) ** (1 / (2 - q))
        keep = ~(r <= (2 - q) / (2 * (1 - q)) * jump)
        y = safe = jnp.where(keep, r, 1)
        t = jnp.where(keep, t, 0)
        for _ in range(6):
            pull = t * q * y ** (q - 1)
            y = y - (y + pull - safe) / (1 + (q - 1) * pull / y)
        return jnp.where(keep, y, 0)

    def critical_level(self, r: jax.Array) -> jax.Array:
        slack = 2 * (1 - self.q)  # the jump of `prox`, solved for t
        return (slack * r / (2 - self.q)) ** (2 - self.q) / slack


@dataclasses.dataclass(frozen=True)
class LogSum(Penalty):
    r""":math:`\log(1 + r/\epsilon)` (Candes, Wakin & Boyd, 2008)."""

    eps: float = 0.1

    name = "log_sum"

    def __post_init__(self):
        check_parameter("eps", self.eps, above=0)

    def value(self, r: jax.Array) -> jax.Array:
        return jnp.log1p(r / self.eps)

    def derivative(self, r: jax.Array) -> jax.Array:
        return 1 / (r + self.eps)

    def prox(self, r: jax.Array, t: jax.Array) -> jax.Array:
        # Stationary points solve (y - r)(y + eps) + t = 0; the larger root, written
        # without cancellation for small t. Convex iff t <= eps^2.
        eps = self.eps
        discriminant = jnp.square(r + eps) - 4 * t
        none = discriminant <= 0
        root = jnp.where(none, 0, jnp.sqrt(jnp.where(none, 1, discriminant)))
        y = jnp.maximum(r - 2 * t / (r + eps + root), 0)
        gain = y * (r - y / 2) - t * jnp.log1p(y / eps)
        drop = jnp.where(t <= eps * eps, r * eps <= t, none | (gain <= 0))
        return jnp.where(drop, 0, y)


@dataclasses.dataclass(frozen=True)
class Laplace(Penalty):
    r""":math:`1 - e^{-r/\epsilon}`: a smooth count (Trzasko & Manduca, 2009).

    With :math:`\tau = t/\epsilon^2` a stationary point is
    :math:`y = r - \epsilon e^{-v}`, where :math:`v \ge 0` is the root of

    .. math:: v + e^{-v} = 1 + d, \qquad d = r/\epsilon - 1 - \log\tau

    and there is none if :math:`d < 0`. The left side is convex: from the left of the
    root Newton lands right of it, and from there falls to it.
    """

    eps: float = 0.1

    name = "laplace"

    def __post_init__(self):
        check_parameter("eps", self.eps, above=0)

    def value(self, r: jax.Array) -> jax.Array:
        return -jnp.expm1(-r / self.eps)

    def derivative(self, r: jax.Array) -> jax.Array:
        return jnp.exp(-r / self.eps) / self.eps

    def prox(self, r: jax.Array, t: jax.Array) -> jax.Array:
        eps = self.eps
        tau = t / (eps * eps)
        d = r / eps - 1 - jnp.log(jnp.where(tau > 0, tau, 1))
        none = (d <= 0) | (tau == 0)
        d = jnp.where(none, 1, d)
        # Right at both ends, and to 6 % between: five steps reach float64.
        v = d - jnp.expm1(-jnp.sqrt(2 * d))
        for _ in range(5):
            v = v + (v + jnp.expm1(-v) - d) / jnp.expm1(-v)
        # At t = 0 the exponential is 0, and this its derivative.
        at_zero = tau * jnp.exp(-r / eps)
        y = jnp.maximum(r - eps * jnp.where(none, at_zero, jnp.exp(-v)), 0)
        # Strictly convex iff tau < 1: then the slope at 0 decides. Else 0 may be lower.
        gain = y * (r - y / 2) - t * self.value(y)
        drop = jnp.where(tau <= 1, r * eps <= t, none | (gain <= 0))
        return jnp.where(drop, 0, y)
