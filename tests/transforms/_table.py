"""The transformations under test, one row each, and the problem they are tested on.

A transformation joins by adding a row. What it cannot do, or does in another way, is
a field of its row; the tests ask for fields and know no names.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rmda_jax as rj
from rmda_jax import testing
from tests._daily import daily, first_of_each


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One transformation in one configuration.

    Args:
      name: Id of the tests.
      factory: Function that makes the transformation.
      arguments: Its keyword arguments, fit for `start`.
      suite: Those for Optax's own suites: they fit any tree and converge on its
        targets. None if another row already stands for the factory there.
      hyperparameters: Names of the arguments that may be numbers, arrays or schedules.
      exact: Arguments under which the params carry exact zeros after every update,
        those of the structured iterate if there is one; None if there are none.
      first_step: The params after the first update of a stage:
        ``(regularizer, params, grads, learning_rate, strength) -> params``.
      plain: Arguments under which that holds: no averaging, no weight decay.
      structured: Whether `structured_params` finds a structured iterate in its state.
      latent: Whether its state holds latent weights, whose prox are the params:
        `structured_params` knows them, and no certificate does.
      restarts: Whether it takes ``restart_steps``.
      alike: Arguments that make all its stages alike.
      averages_gradients: Whether it is dual averaging with weights that grow like
        sqrt(t): within a stage its state sees gradients alone, and has their
        ``mean_gradient()``.
      exempt: Laws that it is spared, for the reason that its row gives.
      magnification: By how much it may enlarge the rounding of a gradient.
      refuses_complex: Message of the TypeError on complex params.
      public: Name of the public function it stands for, if that is not the factory's.
      mechanism: What the program of its step is made of. Tests of how programs compile
        run by default on one row of every mechanism, at night on all.
    """

    name: str
    factory: Callable[..., optax.GradientTransformation]
    arguments: Mapping[str, Any]
    suite: Mapping[str, Any] | None = None
    hyperparameters: tuple[str, ...] = ("learning_rate", "strength", "averaging")
    exact: Mapping[str, Any] | None = None
    first_step: Callable[..., Any] | None = None
    plain: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    structured: bool = False
    latent: bool = False
    restarts: bool = False
    alike: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    averages_gradients: bool = False
    exempt: tuple[Callable[[testing.Trial], None], ...] = ()
    magnification: float = 1.0
    refuses_complex: str = "parameters must be real floating"
    public: str = ""
    mechanism: str = "closed forms"

    @property
    def regularized(self) -> bool:
        """Whether it takes a regularizer and its strength."""
        return "regularizer" in self.arguments

    @property
    def regularizer(self) -> Any:
        return self.arguments["regularizer"]

    def ulps(self, steps: int) -> float:
        """How far two programs may be apart that compute the same.

        An entry is rounded about ten times a step, and a compiler may contract or
        reorder each of these operations.
        """
        return 10 * steps * self.magnification

    def constants(self, **changes: Any) -> dict[str, Any]:
        """Return the arguments with constant hyperparameters, and no restart."""
        constants = {name: CONSTANTS[name] for name in self.hyperparameters}
        restarts = {"restart_steps": ()} if self.restarts else {}
        return {**self.arguments, **constants, **restarts, **self.alike, **changes}

    def make(self, **changes: Any) -> optax.GradientTransformation:
        """Build the transformation, with some arguments changed."""
        return self._build({**self.arguments, **changes})

    def make_constant(self, **changes: Any) -> optax.GradientTransformation:
        """Build it with `constants`."""
        return self._build(self.constants(**changes))

    @functools.cached_property
    def trial(self) -> testing.Trial:
        """Return what the laws of transformations are checked on."""
        return testing.Trial(
            functools.partial(self.factory, **self.arguments),
            start(),
            gradients(),
            self.arguments.get("regularizer"),
            self.ulps(1),
        )

    def _build(self, arguments: Mapping[str, Any]) -> optax.GradientTransformation:
        # One object for the same arguments, so that `run` compiles its step once.
        try:
            return _built(self.factory, **arguments)
        except TypeError:  # an array cannot be hashed
            return self.factory(**arguments)

    def __str__(self) -> str:
        return self.name


@functools.lru_cache(maxsize=None, typed=True)  # True is no 1.0 where it is refused
def _built(factory: Callable[..., Any], **arguments: Any) -> Any:
    return factory(**arguments)


def _chosen(fields: tuple[str, ...]) -> list[Row]:
    # An empty mapping is an answer; None, False and () are not.
    given = lambda row, field: getattr(row, field) not in (None, False, ())
    chosen = [row for row in ROWS if all(given(row, field) for field in fields)]
    assert chosen, f"no row has {fields}"
    return chosen


def rows(*fields: str) -> pytest.MarkDecorator:
    """Parametrize a test over the rows in which all these fields are set."""
    return pytest.mark.parametrize("row", _chosen(fields), ids=str)


def factories(*fields: str) -> pytest.MarkDecorator:
    """Parametrize a test over the first such row of every factory.

    For what does not depend on the configuration.
    """
    return pytest.mark.parametrize("row", rows_of_factories(*fields), ids=str)


def rows_of_factories(*fields: str) -> list[Row]:
    """Return the first row of every factory in which all these fields are set."""
    first: dict[Any, Row] = {}
    for row in _chosen(fields):
        _ = first.setdefault(row.factory, row)
    return list(first.values())


def each_law(laws: tuple, of_rows: tuple, of_mechanisms: tuple) -> list:
    """Return a parameter for every law of every factory; these, of every row.

    By default they are of one row of every factory, or of every mechanism.
    """
    pairs, seen = [], set()
    for row in ROWS:
        for law in laws:
            again = (row.factory, law) in seen and law not in of_rows
            seen.add((row.factory, law))
            if not again and law not in row.exempt:
                pairs.append(pytest.param(row, law, id=f"{row}-{law.__name__[6:]}"))

    def kind(row: Row, law: Callable[..., None]) -> Hashable:
        return law, row.mechanism if law in of_mechanisms else row.factory

    return first_of_each(kind, pairs)


def by_mechanism(mark: pytest.MarkDecorator) -> pytest.MarkDecorator:
    """Run by default one row of every mechanism, the others at night."""
    return daily(lambda row: row.mechanism, mark)


def by_factory(mark: pytest.MarkDecorator) -> pytest.MarkDecorator:
    """Run by default one row of every factory, the others at night."""
    return daily(lambda row: row.factory, mark)


def first(*fields: str) -> pytest.MarkDecorator:
    """Parametrize a test over one such row: what is tested is not the row itself."""
    return pytest.mark.parametrize("row", _chosen(fields)[:1], ids=str)


# --- what a first step does -------------------------------------------------------


def _prox_sgd(regularizer, params, grads, learning_rate, strength):
    """One step of proximal SGD: the first of every dual averaging."""
    forward = jax.tree.map(lambda w, g: w - learning_rate * g, params, grads)
    return _as_map(regularizer).prox(forward, learning_rate * strength)


def _adaptive(metric: Callable, move: Callable) -> Callable[..., Any]:
    """A proximal step in a metric, both functions of learning rate and gradient."""

    def step(regularizer, params, grads, learning_rate, strength):
        leaves, treedef = jax.tree.flatten(params)
        out = []
        for bound, w, g in zip(
            _as_map(regularizer).resolve(params),
            leaves,
            jax.tree.leaves(grads),
            strict=True,
        ):
            d = metric(learning_rate, g)
            x = w - move(learning_rate, g) / d
            if bound.regularizer is not None:
                step_size = learning_rate * strength * bound.multiplier
                x = bound.regularizer.metric_prox(x, step_size, d)
            out.append(x)
        return treedef.unflatten(out)

    return step


def _as_map(regularizer: Any) -> rj.RegularizerMap:
    if isinstance(regularizer, rj.RegularizerMap):
        return regularizer
    return rj.RegularizerMap([("*", regularizer)])


# --- the rows ---------------------------------------------------------------------

GROUPS = rj.RegularizerMap([("*/kernel", rj.group_lasso(group_axes=-2))])
MIXED = rj.RegularizerMap(
    [
        ("conv/kernel", rj.sparse_group_lasso(group_axes=-2)),
        ("head/bias", None),
        ("head/*", rj.l1(), 0.5),
    ]
)
COLUMNS = rj.RegularizerMap([("*", rj.group_lasso(group_axes=-1))])
STAGES = dict(
    learning_rate=optax.exponential_decay(0.15, 1, 0.97),
    regularizer=MIXED,
    strength=optax.linear_schedule(0.2, 0.4, 6),
    averaging=optax.linear_schedule(0.2, 1.0, 6),
    restart_steps=(2, 5),
)

_DUAL_AVERAGING = dict(
    exact={"averaging": 1.0},
    plain={"averaging": 1.0},
    structured=True,
    restarts=True,
    averages_gradients=True,
    exempt=(testing.check_init,),  # the anchor begins at the params
)
_RMDA = dict(_DUAL_AVERAGING, factory=rj.rmda, first_step=_prox_sgd)
_RAMDA = dict(
    _DUAL_AVERAGING,
    factory=rj.ramda,
    mechanism="a prox in a metric",
    hyperparameters=("learning_rate", "strength", "averaging", "eps"),
    alike={"eps_decay": 1.0},
    # The cube root of small sums: a metric of 0.1 makes ten of an error of one.
    magnification=10.0,
    first_step=_adaptive(
        metric=lambda eta, g: jnp.cbrt(eta * g * g) + CONSTANTS["eps"],
        move=lambda eta, g: eta * g,
    ),
)
_ADAM = dict(
    mechanism="a prox in a metric",
    hyperparameters=("learning_rate", "strength", "b1", "b2", "eps", "weight_decay"),
    exact={},
    plain={"weight_decay": 0.0},
)


def _rigl_sgd(
    learning_rate: optax.ScalarOrSchedule, dense: bool = False
) -> optax.GradientTransformation:
    """RigL around SGD; dense for Optax's suites, which train vectors."""
    where, sparsity = ("*", 0.0) if dense else (None, 0.5)
    inner = optax.sgd(learning_rate, momentum=0.9)
    return rj.rigl(inner, sparsity, where=where, update_every=3, end_step=6)


def _heal(
    learning_rate: optax.ScalarOrSchedule,
    regularizer: Any,
    strength: optax.ScalarOrSchedule,
    averaging: optax.ScalarOrSchedule = 1.0,
    method: str = "proxsgd",
) -> optax.GradientTransformation:
    """A method, and halfway through the steps SGD with all that masks must stop."""
    first = getattr(rj, method)(
        learning_rate, regularizer, strength, averaging=averaging
    )
    then = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(1e-4),
        optax.sgd(0.002, momentum=0.9),
    )
    return rj.heal(first, then, regularizer, STEPS // 2)


def _aprox(
    learning_rate: optax.ScalarOrSchedule,
    regularizer: Any,
    strength: optax.ScalarOrSchedule,
) -> optax.GradientTransformation:
    """AProx around SGD with momentum."""
    inner = optax.sgd(learning_rate, momentum=0.9)
    return rj.aprox(inner, learning_rate, regularizer, strength)


def _phases(
    learning_rate: optax.ScalarOrSchedule,
    regularizer: Any,
    strength: optax.ScalarOrSchedule,
) -> optax.GradientTransformation:
    """AProx with a warm-up, every other prox left out, and an end."""
    inner = optax.sgd(learning_rate, momentum=0.9)
    steps = dict(start_step=1, freeze_step=6, prox_every=2)
    return rj.aprox(inner, learning_rate, regularizer, strength, **steps)


def _normal_map(
    learning_rate: optax.ScalarOrSchedule,
    regularizer: Any,
    strength: optax.ScalarOrSchedule,
) -> optax.GradientTransformation:
    """The normal-map method around SGD with momentum."""
    inner = optax.sgd(learning_rate, momentum=0.9)
    return rj.normal_map(inner, learning_rate, regularizer, strength)


def _linbreg(
    learning_rate: optax.ScalarOrSchedule,
    regularizer: Any,
    strength: optax.ScalarOrSchedule,
) -> optax.GradientTransformation:
    """LinBreg with momentum."""
    inner = optax.sgd(learning_rate, momentum=0.9)
    return rj.linbreg(inner, regularizer, strength, begin_at_params=False)


def _normal_step(regularizer, params, grads, learning_rate, strength):
    """The first step of a latent method whose gamma is 1 all the time."""
    forward = jax.tree.map(lambda w, g: w - learning_rate * g, params, grads)
    return _as_map(regularizer).prox(forward, strength)


_LATENT = dict(
    latent=True,
    mechanism="latent weights",
    hyperparameters=("learning_rate", "strength"),
    exact={},
    exempt=(
        testing.check_accumulators,  # they are the inner optimizer's
        testing.check_init,  # the latent weights begin at the params
        testing.check_zero_strength,  # (z + u) - w is rounded, w + u is not
    ),
)

# Its structured iterate ends halfway: `structured` would promise it at every step.
_HEAL = dict(
    factory=_heal,
    public="heal",
    mechanism="phases",
    exact={},
    first_step=_prox_sgd,
    plain={"averaging": 1.0},
    exempt=(testing.check_accumulators,),  # they are the optimizer's
)

ROWS = [
    Row(
        "rmda-groups",
        arguments=dict(
            learning_rate=0.1, regularizer=GROUPS, strength=0.3, averaging=0.3
        ),
        **_RMDA,
    ),
    Row(
        "rmda-l1",
        arguments=dict(
            learning_rate=0.1, regularizer=rj.l1(), strength=0.4, averaging=0.3
        ),
        # Far from its target without a restart, the averaged gradient remembers the
        # start: the distance falls like 1/t and is 0.003 after 10,000 steps.
        suite=dict(
            learning_rate=0.1, regularizer=rj.l1(), strength=1e-5, averaging=0.03
        ),
        **_RMDA,
    ),
    Row(
        "rmda-restarts",
        arguments=STAGES,
        suite=dict(
            learning_rate=0.01,
            regularizer=COLUMNS,
            strength=1e-5,
            averaging=0.1,
            restart_steps=tuple(range(1000, 30_000, 1000)),
        ),
        **_RMDA,
    ),
    Row(
        "rmda-unregularized",
        arguments=dict(
            learning_rate=0.1,
            regularizer=rj.RegularizerMap([("head/*", rj.l1()), ("*", None)]),
            strength=0.4,
            averaging=0.3,
        ),
        **_RMDA,
    ),
    Row(
        "ramda-groups",
        arguments=dict(
            learning_rate=0.1, regularizer=GROUPS, strength=0.3, averaging=0.3
        ),
        suite=dict(
            learning_rate=0.01, regularizer=COLUMNS, strength=1e-5, averaging=0.03
        ),
        **_RAMDA,
    ),
    Row("ramda-restarts", arguments=STAGES, **_RAMDA),
    Row(
        "proxsgd-mixed",
        factory=rj.proxsgd,
        arguments=dict(
            learning_rate=0.1, regularizer=MIXED, strength=0.4, averaging=0.3
        ),
        suite=dict(
            learning_rate=0.002, regularizer=COLUMNS, strength=1e-5, averaging=0.1
        ),
        exact={},
        first_step=_prox_sgd,
        plain={"averaging": 1.0},
    ),
    Row(
        "proxsgd-adaptive",
        factory=rj.proxsgd_adaptive,
        arguments=dict(
            learning_rate=0.1, regularizer=rj.l1(), strength=0.4, averaging=0.3
        ),
        suite=dict(
            learning_rate=0.1, regularizer=rj.l1(), strength=1e-5, averaging=0.1
        ),
        hyperparameters=("learning_rate", "strength", "averaging", "b2", "eps"),
    ),
    Row(
        "proxgen-mixed",
        factory=rj.proxgen,
        arguments=dict(learning_rate=0.1, regularizer=MIXED, strength=0.4),
        suite=dict(learning_rate=0.01, regularizer=COLUMNS, strength=1e-5),
        first_step=_adaptive(
            metric=lambda eta, g: jnp.abs(g) + CONSTANTS["eps"],
            move=lambda eta, g: eta * g,
        ),
        **_ADAM,
    ),
    Row(
        "proxssi-groups",
        factory=rj.proxssi,
        arguments=dict(learning_rate=0.1, regularizer=GROUPS, strength=0.05),
        suite=dict(learning_rate=0.01, regularizer=COLUMNS, strength=1e-5),
        first_step=_adaptive(
            metric=lambda eta, g: np.sqrt(0.1) * jnp.abs(g) + CONSTANTS["eps"],
            move=lambda eta, g: eta * np.sqrt(0.1) * g,
        ),
        **_ADAM,
    ),
    Row(
        "rigl-sgd",
        factory=_rigl_sgd,
        public="rigl",
        mechanism="masks",
        arguments=dict(learning_rate=0.1),
        suite=dict(learning_rate=0.002, dense=True),
        hyperparameters=("learning_rate",),
        exact={},
        exempt=(testing.check_accumulators,),  # they are the inner optimizer's
    ),
    Row(
        "heal-proxsgd",
        arguments=dict(
            learning_rate=0.1, regularizer=MIXED, strength=0.4, averaging=0.3
        ),
        suite=dict(learning_rate=0.01, regularizer=COLUMNS, strength=1e-5),
        **_HEAL,
    ),
    Row(
        "heal-rmda",
        arguments=dict(
            learning_rate=0.1,
            regularizer=GROUPS,
            strength=0.3,
            averaging=0.3,
            method="rmda",
        ),
        **_HEAL,
    ),
    Row(
        "aprox-l1",
        factory=_aprox,
        public="aprox",
        # By 0.4 a latent weight would lie on its threshold, where rounding decides.
        arguments=dict(learning_rate=0.1, regularizer=rj.l1(), strength=0.41),
        suite=dict(learning_rate=0.002, regularizer=COLUMNS, strength=1e-7),
        first_step=_prox_sgd,
        **_LATENT,
    ),
    Row(
        "normal_map-groups",
        factory=_normal_map,
        public="normal_map",
        arguments=dict(
            learning_rate=0.1,
            regularizer=GROUPS,
            strength=0.3,
        ),
        suite=dict(learning_rate=0.002, regularizer=COLUMNS, strength=1e-5),
        first_step=_normal_step,
        **_LATENT,
    ),
    Row(
        "linbreg-l1",
        factory=_linbreg,
        public="linbreg",
        arguments=dict(learning_rate=0.1, regularizer=rj.l1(), strength=0.4),
        suite=dict(learning_rate=0.002, regularizer=COLUMNS, strength=1e-5),
        first_step=_normal_step,
        **{**_LATENT, "hyperparameters": ("strength",)},
    ),
    Row(
        "aprox-phases",
        factory=_phases,
        public="latent",
        arguments=dict(learning_rate=0.1, regularizer=MIXED, strength=0.4),
        **{**_LATENT, "exact": None},
    ),
]
SUITE_ROWS = [row for row in ROWS if row.suite is not None]

CONSTANTS = {
    "learning_rate": 0.1,
    "strength": 0.3,
    "averaging": 0.5,
    "b1": 0.8,
    "b2": 0.9,
    "eps": 1e-3,
    "weight_decay": 0.01,
}

SHAPES = {
    "conv": {"bias": (8,), "kernel": (3, 2, 8, 8)},
    "head": {"bias": (8,), "kernel": (16, 8)},
}
STEPS = 8


@functools.cache
def _numbers(seed: int) -> Any:
    """A tree of `SHAPES`: normal numbers in eighths, smaller for every other channel.

    Few digits and factors that are powers of 2: short sums are exact in every dtype.
    """
    rng = np.random.default_rng(seed)

    def leaf(shape: tuple[int, ...]) -> np.ndarray:
        x = np.round(8 * rng.normal(size=shape)) / 8
        if len(shape) > 1:
            x *= np.exp2(-(np.arange(shape[-2]) % 4))[:, None]
        return x

    return jax.tree.map(leaf, SHAPES, is_leaf=lambda x: isinstance(x, tuple))


def start(dtype: Any = np.float32) -> Any:
    """Params of which some units are small enough for the structure to catch them."""
    return jax.tree.map(lambda x: jnp.asarray(x / 2, dtype), _numbers(0))


def gradients(steps: int = STEPS, dtype: Any = np.float32) -> list[Any]:
    """Noise around a drift: the same for every test, whatever the params do."""
    return [
        jax.tree.map(
            lambda drift, noise: jnp.asarray((drift + noise) / 2, dtype),
            _numbers(1),
            _numbers(2 + i),
        )
        for i in range(steps)
    ]


def step_of(tx: optax.GradientTransformation) -> Callable[..., tuple[Any, Any]]:
    """``(params, state, grads) -> (params, state)``."""

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


@functools.cache
def _compiled(tx: optax.GradientTransformation) -> Callable[..., tuple[Any, Any]]:
    return jax.jit(step_of(tx))


def run(
    tx: optax.GradientTransformation,
    params: Any,
    grads: list[Any],
    state: Any = None,
    *,
    eager: bool = False,
) -> tuple[Any, Any]:
    """Apply every gradient, and return params and state.

    Eager, every operation is a kernel of its own: what is equal in exact terms is then
    equal to the last bit, whatever the compiler would have fused.
    """
    state = tx.init(params) if state is None else state
    step = step_of(tx) if eager else _compiled(tx)
    for g in grads:
        params, state = step(params, state, g)
    return params, state


def assert_equal(actual: Any, desired: Any) -> None:
    """Same structure, same dtypes, same bits."""
    assert jax.tree.structure(actual) == jax.tree.structure(desired)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), strict=True)


def assert_close(actual: Any, desired: Any, ulps: float) -> None:
    """Same structure and dtypes, leaves within so many ulps of their largest entry."""
    assert jax.tree.structure(actual) == jax.tree.structure(desired)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        assert a.dtype == b.dtype
        a, b = np.asarray(a), np.asarray(b)
        if not jnp.issubdtype(b.dtype, jnp.floating):
            np.testing.assert_array_equal(a, b, strict=True)
            continue
        scale = np.abs(b).max(initial=0)
        np.testing.assert_allclose(
            a, b, rtol=0, atol=ulps * jnp.finfo(b.dtype).eps * scale
        )
