"""REMOVE: hidden units that are zero, found by tracing (`trace`, `plan`, `apply`)."""

from rmda_jax.shrink._alive_costs import Costs as Costs
from rmda_jax.shrink._apply import apply as apply
from rmda_jax.shrink._costs import costs as costs
from rmda_jax.shrink._factors import factors as factors
from rmda_jax.shrink._fastest import (
    Fastest as Fastest,
    WidthTrial as WidthTrial,
    fastest as fastest,
)
from rmda_jax.shrink._files import load as load, save as save
from rmda_jax.shrink._group_rules import group_rules as group_rules, spec as spec
from rmda_jax.shrink._latency import latency as latency
from rmda_jax.shrink._module import slice_module as slice_module
from rmda_jax.shrink._plan import GroupCut as GroupCut, Plan as Plan, plan as plan
from rmda_jax.shrink._program import (
    Program as Program,
    ProgramEquation as ProgramEquation,
    program as program,
)
from rmda_jax.shrink._report import (
    BeforeAfter as BeforeAfter,
    LayerReport as LayerReport,
    Report as Report,
    report as report,
)
from rmda_jax.shrink._retrace import Conflict as Conflict
from rmda_jax.shrink._timing import Timing as Timing, by_turns as by_turns
from rmda_jax.shrink._trace import (
    Couplings as Couplings,
    UnitGroup as UnitGroup,
    UnitMember as UnitMember,
    trace as trace,
)
from rmda_jax.shrink._verify import (
    OutputDifference as OutputDifference,
    verify as verify,
)
