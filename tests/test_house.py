"""The house rules: who imports whom, what is public, documented, and how long.

Each rule is a function that returns its violations, so that the last tests can show on
a small package built wrongly that the rule is able to fail.
"""

import ast
import dataclasses
import importlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import rmda_jax
from tests._table import COMMON, TABLE

PACKAGE = "rmda_jax"
ROOT = Path(rmda_jax.__file__).parent

# A room may import itself and these; "" is the package's own __init__.py.
_BELOW_SPECS = {"_types", "regularizers"}
MAY_IMPORT = {
    "_former_names": {"regularizers"},
    "_text": set(),
    "_types": set(),
    "_version": set(),
    "regularizers": {"_types"},
    "schedules": {"_text", "_types"},
    "specs": {*_BELOW_SPECS, "_text"},
    "transforms": {*_BELOW_SPECS, "specs", "schedules"},
    "metrics": {*_BELOW_SPECS, "specs", "transforms"},
    "shrink": {*_BELOW_SPECS, "_text", "specs", "metrics"},
}
MAY_IMPORT[""] = set(MAY_IMPORT)
MAY_IMPORT["testing"] = set(MAY_IMPORT)

LIBRARIES = {"jax", "optax", "numpy"}  # numpy is JAX's own dependency
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60  # without the docstring
METHODS = types.FunctionType | property | classmethod | staticmethod

FACTORIES = " ".join(TABLE)
AT_THE_TOP = " ".join(COMMON)
PUBLIC = {
    "rmda_jax": f"""
        HealState LatentState ProxAdamState ProxSGDAdaptiveState ProxSGDState RAMDAState
        RMDAState Regularizer RegularizerMap RigLState Suggestion __version__ aprox
        budget collapse_gates gate_params gate_penalty heal latent linbreg metrics
        normal_map parq_annealing proxgen proxsgd proxsgd_adaptive proxssi ramda
        regularizers rigl rigl_params rmda shrink stages structured_params
        structured_support suggest_strength
        {AT_THE_TOP}
    """,
    "rmda_jax.regularizers": f"""
        Regularizer least_squares_levels reweighting {FACTORIES}
    """,
    "rmda_jax.shrink": """
        BeforeAfter Conflict Costs Couplings Fastest GroupCut LayerReport
        OutputDifference Plan Program ProgramEquation Report Timing UnitGroup UnitMember
        WidthTrial apply by_turns costs factors fastest group_rules latency load plan
        program report save slice_module spec trace verify
    """,
    "rmda_jax.metrics": """
        Summary SupportedSize group_sparsity margin rank sparsity stable_since
        stationarity summary support_distance supported_size update_stable_since
    """,
    "rmda_jax.testing": """
        LAWS Trial UPDATE_LAWS check_accumulators check_answers check_batches
        check_certificate check_checkpoint check_compiled check_critical_strengths
        check_donation check_dtypes check_exact_zeros check_finite
        check_finite_gradients
        check_firmly_nonexpansive check_homogeneous check_huge_step check_init
        check_jit check_metric_prox check_minimizes check_nan check_nan_spreads
        check_object check_projection check_pure check_regularizer check_scan
        check_separable check_snap check_state check_support_mask check_tiny_entries
        check_transformation check_trees check_units check_update_dtypes
        check_update_zeros check_vmap check_zero_step check_zero_strength
    """,
}


def modules(root: Path) -> Iterator[tuple[str, str, ast.Module]]:
    """Yield path, room and syntax tree of every module under `root`."""
    for path in sorted(root.rglob("*.py")):
        where = path.relative_to(root)
        room = where.parts[0].removesuffix(".py")
        yield (
            where.as_posix(),
            "" if room == "__init__" else room,
            ast.parse(path.read_text(encoding="utf-8")),
        )


def imported(where: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and full dotted name of everything a module imports."""
    package = [PACKAGE, *Path(where).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = [*above, *([node.module] if node.module else [])]
            for alias in node.names:
                yield node.lineno, ".".join([*base, alias.name])


def wrong_directions(root: Path) -> list[str]:
    found = []
    for where, room, tree in modules(root):
        if room not in MAY_IMPORT:
            found.append(f"{where}: room '{room}' is not in MAY_IMPORT")
            continue
        for line, name in imported(where, tree):
            top, _, rest = name.partition(".")
            # What is no room is a name of the package's own __init__.py: room "".
            target = rest.split(".")[0] if rest.split(".")[0] in MAY_IMPORT else ""
            if top == PACKAGE and target not in {room, *MAY_IMPORT[room]}:
                found.append(f"{where}:{line}: '{room}' imports {name}")
    return found


def foreign_imports(root: Path) -> list[str]:
    allowed = {PACKAGE, *LIBRARIES, *sys.stdlib_module_names}
    return [
        f"{where}:{line}: {name}"
        for where, _, tree in modules(root)
        for line, name in imported(where, tree)
        if name.split(".")[0] not in allowed
    ]


def more_than_reexports(root: Path) -> list[str]:
    """Name what is neither docstring nor `X as X` in the `__init__.py` files."""
    found = []
    for where, _, tree in modules(root):
        if Path(where).name != "__init__.py":
            continue
        body = tree.body[1:] if ast.get_docstring(tree) else tree.body
        for node in body:
            if not isinstance(node, ast.ImportFrom) or any(
                alias.asname != alias.name for alias in node.names
            ):
                found.append(f"{where}:{node.lineno}: {ast.unparse(node)}")
    return found


def n_lines_of(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def too_long(root: Path) -> list[str]:
    found = []
    for where, _, tree in modules(root):
        n_lines = len((root / where).read_text(encoding="utf-8").splitlines())
        if n_lines > MAX_MODULE_LINES:
            found.append(f"{where}: {n_lines} lines")
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            length = n_lines_of(node)
            if ast.get_docstring(node):
                length -= n_lines_of(node.body[0])
            if length > MAX_FUNCTION_LINES:
                found.append(f"{where}:{node.lineno}: {node.name}, {length} lines")
    return found


def public_names(root: Path, module: str) -> list[str]:
    """Return what the `__init__.py` of a module re-exports."""
    path = root.joinpath(*module.split(".")[1:], "__init__.py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return sorted(
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name != "__getattr__"
    )


def undocumented(name: str, thing: object) -> list[str]:
    """Name `thing` if it has no docstring, and its public methods that have none.

    A method may inherit its docstring; a class may not, and the signature that
    `dataclass` and `NamedTuple` write in its place does not count.
    """
    if not callable(thing) and not isinstance(thing, types.ModuleType):
        return []
    doc = (thing.__doc__ or "").strip()
    if not isinstance(thing, type):
        return [] if doc else [name]
    methods, documented = set(), set()
    for base in thing.__mro__:
        ours = base.__module__.split(".")[0] == thing.__module__.split(".")[0]
        for key, member in vars(base).items():
            if member.__doc__:
                documented.add(key)
            if ours and isinstance(member, METHODS) and not key.startswith("_"):
                methods.add(key)
    bare = not doc or doc.startswith(f"{thing.__name__}(")
    return [name] * bare + [f"{name}.{key}" for key in sorted(methods - documented)]


RULES = [wrong_directions, foreign_imports, more_than_reexports, too_long]


@pytest.mark.parametrize("rule", RULES)
def test_package_keeps_the_rule(rule):
    assert rule(ROOT) == []


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_the_pinned_ones(module):
    assert public_names(ROOT, module) == sorted(PUBLIC[module].split())


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_documented(module):
    room = importlib.import_module(module)
    found = undocumented(module, room)
    for name in public_names(ROOT, module):
        found += undocumented(name, getattr(room, name))
    assert found == []


GOOD = {
    "__init__.py": '"""A package."""\nfrom rmda_jax.specs import rules as rules\n',
    "_types.py": "import jax\n",
    "specs/__init__.py": "from ._rules import rules as rules\n",
    "specs/_rules.py": (
        "import functools, numpy.linalg\nfrom .. import regularizers\n"
        "from rmda_jax._types import Params\nfrom ._names import canonical\n"
    ),
    "specs/_long.py": (
        'def f():\n """A docstring.\n' + "\n" * 300 + ' """\n' + " x = 1\n" * 59
    ),
    "testing/_laws.py": "import rmda_jax as rj\nfrom rmda_jax.shrink import plan\n",
}
BAD = [
    (wrong_directions, "specs/_a.py", "from rmda_jax import metrics", "metrics"),
    (wrong_directions, "specs/_a.py", "from ..transforms._rmda import f", "transforms"),
    (wrong_directions, "_types.py", "def f():\n import rmda_jax.specs", "specs"),
    (wrong_directions, "shrink/_a.py", "import rmda_jax", "rmda_jax"),
    (wrong_directions, "__init__.py", "from . import testing as testing", "testing"),
    (wrong_directions, "attic/_a.py", "", "MAY_IMPORT"),
    (foreign_imports, "specs/_a.py", "from flax import nnx", "flax.nnx"),
    (foreign_imports, "testing/_a.py", "if 0:\n import pytest", "pytest"),
    (foreign_imports, "_types.py", "import jaxlib.xla", "jaxlib.xla"),
    (more_than_reexports, "__init__.py", "from jax import jit", "jit"),
    (more_than_reexports, "specs/__init__.py", "import jax as jax", "import jax"),
    (more_than_reexports, "specs/__init__.py", "RATE = 1.0", "RATE"),
    (too_long, "specs/_a.py", "x = 1\n" * 401, "401 lines"),
    (too_long, "specs/_a.py", "def f():\n" + " x = 1\n" * 60, "f, 61 lines"),
    (too_long, "specs/_a.py", 'def g():\n "Doc."\n' + " x = 1\n" * 60, "g, 61 lines"),
]


def write(root: Path, files: dict[str, str]) -> Path:
    for where, source in files.items():
        root.joinpath(where).parent.mkdir(parents=True, exist_ok=True)
        root.joinpath(where).write_text(source, encoding="utf-8")
    return root


@pytest.mark.parametrize("rule", RULES)
def test_rule_finds_nothing_in_a_good_package(rule, tmp_path):
    assert rule(write(tmp_path, GOOD)) == []


@pytest.mark.parametrize(("rule", "where", "source", "message"), BAD)
def test_rule_finds_what_is_wrong(rule, where, source, message, tmp_path):
    (violation,) = rule(write(tmp_path, {**GOOD, where: source}))
    assert violation.startswith(where)
    assert message in violation


def test_public_names_are_the_reexported_ones(tmp_path):
    assert public_names(write(tmp_path, GOOD), "rmda_jax") == ["rules"]
    assert public_names(tmp_path, "rmda_jax.specs") == ["rules"]


def test_undocumented_names_functions_classes_and_methods():
    class Base:
        """A base."""

        def inherited(self):
            """Say what it does."""

    @dataclasses.dataclass
    class Bare(Base):
        x: int = 0

        def inherited(self): ...

        def method(self): ...

        @property
        def attribute(self): ...

        def _private(self): ...

    assert undocumented("f", lambda: 0) == ["f"]
    assert undocumented("m", types.ModuleType("m")) == ["m"]
    assert undocumented("Bare", Bare) == ["Bare", "Bare.attribute", "Bare.method"]
    assert undocumented("Base", Base) == undocumented("number", 1.0) == []
