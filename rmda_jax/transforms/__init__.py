r"""HOW to train: one algorithm per file, each an `optax.GradientTransformation`.

Which to choose
---------------

Start with `rmda` where SGD trains the network well, with `ramda` where it takes Adam,
and with `rigl` if single weights in an exact number are wanted rather than structure.
The others are what these are compared with.

==================  ========================================  ==========  ======
transformation      promises                                  zeros are   keeps
==================  ========================================  ==========  ======
`rmda`              finds the structure of the limit, and     in the      2
                    keeps it                                  iterate
`ramda`             the same, in an adaptive metric           the same    3
`proxsgd`           a stationary limit if averaging and step  in the      1
                    decay; no structure                       params
`proxsgd_adaptive`  the same, as first published              nowhere     2
`proxgen`           a stationary point up to the gradient's   in the      2
                    noise; no structure                       params
`proxssi`           the published method, warm-up bias and    in the      2
                    all                                       params
`aprox`,            a prox around any optimizer; around SGD   in the      1
`normal_map`        the structure of the limit                params
`linbreg`           no limit but the loss's: a path from      in the      1
                    sparse to dense                           params
`rigl`              an exact number of weights                in the      1 byte
                                                              params
==================  ========================================  ==========  ======

The iterate is the structured one, `structured_params`. The last column counts arrays
like the params, float32 at the least; those of the latent methods and RigL's byte come
on top of what they wrap.

**What the promise is worth.** All proximal methods find a point; they differ in the
noise of the gradient whose prox decides what is zero. With a momentum of 0.9 a standard
deviation of :math:`0.23\,\sigma` stays indefinitely, and a group whose gradient comes
that near to its threshold keeps appearing and disappearing, however small the learning
rate. The average of `rmda` and `ramda` has :math:`\sigma\sqrt{9/(8t)}` left after t
updates of a stage: if the iterates converge, and no zero group of the limit lies on its
threshold exactly, then after finitely many updates the structure of :math:`\hat W_t` is
that of the limit, and stays (proved for one stage; a restart begins anew).
The latent weights of `normal_map` and `aprox` average gradients as well, and around SGD
they identify, too. ``python -m examples.identification`` shows this where the truth is
known, and what comes first.

**What it asks for.** Long stages, for a restart forgets the average; patience with
zeros that come late, and with the params, which carry them exactly only once the
averaging has reached 1 (see `stages`); and nothing after it in a chain. `rmda` wants
the learning rate of SGD without momentum or more, `ramda` a tenth to a hundredth of
that, `proxgen` and `proxssi` Adam's. Strengths do not carry over from one to another:
select each.

**Afterwards.** A regularizer also shrinks what it keeps. `heal` begins with any of
these, freezes the zeros that were found, and goes on with any Optax optimizer on the
rest, without a regularizer.

**What it costs.** `rmda` and `proxsgd` are two passes over memory, one for the norms
and one for everything else, and take about the time of `optax.adam`. The adaptive
methods solve one scalar equation per group, in one or two steps of third order that
read the group three times each: four times Adam. For penalties on entries they are
closed forms of one pass. For singular values and the like they iterate, see
`Regularizer.solve_metric_prox`. `rigl` costs what it wraps, and a bisection whenever it
rewires. ``docs/performance.md`` says why, ``python -m benchmarks.step`` measures all of
them.

**Regularizers.** Any goes with any. The theorem covers convex and weakly convex ones
(MCP, SCAD). For l0, l1/2, l2/3 and levels `proxgen` is the one whose authors meant it:
with ``binary(soft=True)`` and its like it is the revised ProxQuant.
"""

from rmda_jax.transforms._adam import ProxAdamState as ProxAdamState
from rmda_jax.transforms._gates import (
    collapse_gates as collapse_gates,
    gate_params as gate_params,
    gate_penalty as gate_penalty,
)
from rmda_jax.transforms._heal import heal as heal
from rmda_jax.transforms._heal_state import HealState as HealState
from rmda_jax.transforms._latent import latent as latent
from rmda_jax.transforms._latent_methods import (
    aprox as aprox,
    linbreg as linbreg,
    normal_map as normal_map,
)
from rmda_jax.transforms._latent_state import LatentState as LatentState
from rmda_jax.transforms._proxgen import proxgen as proxgen
from rmda_jax.transforms._proxsgd import (
    ProxSGDState as ProxSGDState,
    proxsgd as proxsgd,
)
from rmda_jax.transforms._proxsgd_adaptive import (
    ProxSGDAdaptiveState as ProxSGDAdaptiveState,
    proxsgd_adaptive as proxsgd_adaptive,
)
from rmda_jax.transforms._proxssi import proxssi as proxssi
from rmda_jax.transforms._ramda import RAMDAState as RAMDAState, ramda as ramda
from rmda_jax.transforms._rigl import RigLState as RigLState, rigl as rigl
from rmda_jax.transforms._rigl_params import rigl_params as rigl_params
from rmda_jax.transforms._rmda import RMDAState as RMDAState, rmda as rmda
from rmda_jax.transforms._structured import (
    structured_params as structured_params,
    structured_support as structured_support,
)
from rmda_jax.transforms._suggest_strength import (
    Suggestion as Suggestion,
    suggest_strength as suggest_strength,
)
