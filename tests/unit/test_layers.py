"""Imports go downwards only, and nothing in the package can execute what it reads."""

import ast
import inspect
from pathlib import Path

import pytest

import bayesmtl

PACKAGE = Path(bayesmtl.__file__).parent

# From the bottom up; names on one line are neighbours, which do not import each other.
LAYERS = [
    ["errors"],
    ["_version", "files", "options"],
    ["priors"],
    ["parameters"],
    ["data"],
    ["algebra"],
    ["sharing", "likelihoods", "kernels", "features"],
    ["registry"],
    ["posteriors"],
    ["samplers"],
    ["inference"],
    ["diagnostics"],
    ["results"],
    ["export"],
    ["models"],
    ["evaluation"],
    ["plots", "datasets"],
    ["bayesmtl"],
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
# Parts that could look further down and do not.
ONLY = {
    "data": {"errors", "options"},
    "datasets": {"errors", "options"},
    "diagnostics": {"errors", "options"},
    "plots": {"errors", "options"},
    # a sampler explores any density: of posteriors it knows `target` alone
    "samplers": {"algebra", "errors", "files", "options", "posteriors"},
}

SOURCES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    parts = ["bayesmtl", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """The part of the package that a module belongs to: "bayesmtl.data.schema" is in "data"."""
    pieces = module.split(".")
    return pieces[1] if len(pieces) > 1 else "bayesmtl"


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imported(tree: ast.AST) -> list[str]:
    """Every module that is imported at run time, in functions too; `from a import b` gives "a.b"."""
    found = []
    queue = [tree]
    while queue:
        node = queue.pop()
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        if is_type_checking(node):
            queue += node.orelse
        else:
            queue += ast.iter_child_nodes(node)
    return found


def violations(module: str, tree: ast.AST) -> list[str]:
    part, found = part_of(module), []
    for name in imported(tree):
        if name.split(".")[0] != "bayesmtl":
            continue
        other = part_of(name) if part_of(name) in LEVEL else "bayesmtl"
        if other == part:
            continue
        if LEVEL[other] >= LEVEL[part] or (part in ONLY and other not in ONLY[part]):
            found.append(f"{module} imports {name}")
    return found


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_every_part_has_a_layer():
    assert {part_of(module_of(path)) for path in SOURCES} == set(LEVEL)


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_go_downwards(path):
    assert violations(module_of(path), parsed(path)) == []


@pytest.mark.parametrize("path", [path for path in SOURCES if "samplers" in path.parts], ids=module_of)
def test_samplers_know_no_model(path):
    """Of posteriors a sampler sees what every density has."""
    posteriors = {name for name in imported(parsed(path)) if part_of(name) == "posteriors"}
    assert all(name.startswith("bayesmtl.posteriors.target") for name in posteriors)


def everything_imported(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere: at the top, in functions, for types only."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                found.add(submodule if submodule in MODULES else HOME.get(submodule, str(node.module)))
    return (found & MODULES) - {module_of(path)}


MODULES = {module_of(path) for path in SOURCES}
FACES = {module_of(path): path for path in SOURCES if path.name == "__init__.py"}
# Where a name that an `__init__` hands on is defined, as far as one step.
HOME = {
    f"{module}.{alias.asname or alias.name}": str(node.module)
    for module, path in FACES.items()
    for node in parsed(path).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Files that import each other, directly or through others."""
    reach = {module: set(out) for module, out in graph.items()}
    for middle in graph:
        for out in reach.values():
            if middle in out:
                out |= reach[middle]
    rings = {
        frozenset(m for m in out if module in reach[m]) for module, out in reach.items() if module in out
    }
    return [set(ring) for ring in rings]


def test_files_form_no_circle():
    """Type-only and lazy imports counted; an `__init__` that hands names on is no room of its own."""
    graph = {module_of(path): everything_imported(path) - set(FACES) for path in SOURCES}
    graph = {module: out for module, out in graph.items() if module not in FACES}
    assert circles(graph) == []


def test_a_circle_is_noticed():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
    assert circles({"a": {"b"}, "b": set()}) == []


@pytest.mark.parametrize(
    "module, text, count",
    [
        ("bayesmtl.data.schema", "from bayesmtl.sharing import Pooled", 1),
        ("bayesmtl.data.schema", "from bayesmtl.priors import Normal", 1),
        ("bayesmtl.data.schema", "from bayesmtl.errors import DataError\nimport bayesmtl.data.labels", 0),
        ("bayesmtl.sharing.pooled", "from bayesmtl.likelihoods import Gaussian", 1),
        ("bayesmtl.results.linear.fit", "def f():\n    import bayesmtl.models.linear", 1),
        ("bayesmtl.results.linear.fit", "from bayesmtl import LinearModel", 1),
        ("bayesmtl.results.linear.fit", "from bayesmtl import errors", 0),
        ("bayesmtl.plots.shrinkage", "from bayesmtl.results import Fit", 1),
        (
            "bayesmtl.plots.shrinkage",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from bayesmtl.results import Fit",
            0,
        ),
        ("bayesmtl.errors", "if TYPE_CHECKING:\n    pass\nelse:\n    from bayesmtl import data", 1),
    ],
)
def test_the_rule_itself(module, text, count):
    assert len(violations(module, ast.parse(text))) == count


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "subprocess"}
NOT_AT_IMPORT = {"pyro", "numpyro", "jax"}  # optional, or peers
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "torch.save",
    "os.system",
    "os.popen",
    "np.random.seed",
    "torch.manual_seed",
    "torch.set_default_dtype",
    "torch.set_num_threads",
    "random.seed",
}


# The text of a Pyro program is written by the package, of its own names; nothing of a file enters it.
RUNS_ITS_OWN_TEXT = "bayesmtl.export.pyro_program"


def offences(tree: ast.AST) -> list[str]:
    """Uses of what executes data, of what the package does without, and of global state."""
    found = [name for name in imported(tree) if name.split(".")[0] in FORBIDDEN_MODULES | NOT_AT_IMPORT]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            found += [name] if name in FORBIDDEN_CALLS else []
            allows = any(
                keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False"
                for keyword in node.keywords
            )
            found += [f"{name}(allow_pickle)"] if allows else []
    return found


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_nothing_executes_data_or_touches_global_state(path):
    allowed = ["exec", "compile"] if module_of(path) == RUNS_ITS_OWN_TEXT else []
    assert sorted(offences(parsed(path))) == sorted(allowed)


def test_gpytorch_stays_in_one_file_and_is_imported_when_used_only():
    users = [module_of(path) for path in SOURCES if "gpytorch" in path.read_text(encoding="utf-8")]
    importing = [path for path in SOURCES if "gpytorch" in imported(parsed(path))]
    assert importing == [] and "bayesmtl.kernels.from_gpytorch" in users


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "torch.load('x')",
        "os.system('ls')",
        "np.load('x', allow_pickle=True)",
        "def f():\n    import pyro.infer",
        "torch.set_num_threads(1)",
    ],
)
def test_offences_are_noticed(text):
    assert len(offences(ast.parse(text))) == 1


@pytest.mark.parametrize("name", [name for name in bayesmtl.__all__ if not name.startswith("__")])
def test_every_public_name_is_documented(name):
    value = getattr(bayesmtl, name)
    # of a class its own, not that of its parent
    documentation = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    assert documentation and documentation.strip()
    # a dataclass without one is given its signature
    assert not documentation.startswith(f"{name}(")
    if inspect.isclass(value):
        for attribute, member in vars(value).items():
            if inspect.isfunction(member) and not attribute.startswith("_"):
                assert member.__doc__, f"{name}.{attribute}"


def test_public_names_are_complete():
    """Whatever is imported into the package for users is in `__all__`, and in order."""
    public = {name for name, value in vars(bayesmtl).items() if not name.startswith("_")}
    parts = {part for parts in LAYERS for part in parts}
    assert public - parts <= set(bayesmtl.__all__)
    assert len(set(bayesmtl.__all__)) == len(bayesmtl.__all__)
