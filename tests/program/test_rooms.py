"""Who imports whom: the arrows between the rooms, and no test file that imports another."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("cml_jax", "experiments", "configs", "benchmarks", "tests")


def module(path: Path) -> str:
    """`cml_jax.data.files` of `cml_jax/data/files.py`; a package by its folder."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, tree: ast.AST, modules: set[str]) -> set[str]:
    """The modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = path.parts[: len(path.parts) - node.level] if node.level else ()
            base = ".".join([*parts, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in modules else base)
    return found


def read(root: Path) -> dict[str, tuple[ast.Module, set[str]]]:
    """`{module: (its tree, the modules that it imports)}` of all files below some folders."""
    paths = [p.relative_to(root) for name in PACKAGES for p in (root / name).rglob("*.py")]
    modules = {module(path) for path in paths}
    made = {}
    for path in paths:
        tree = ast.parse((root / path).read_text(encoding="utf-8"))
        made[module(path)] = (tree, imports(path, tree, modules))
    return made


def within(name: str, *rooms: str) -> bool:
    return any(name == room or name.startswith(room + ".") for room in rooms)


# (who, but for whom, must not import what)
FORBIDDEN = [
    ("cml_jax", (), ("experiments", "configs", "benchmarks", "tests")),
    ("cml_jax", ("cml_jax.models",), ("flax",)),
    ("cml_jax.methods", (), ("cml_jax.data", "cml_jax.tasks")),
    ("cml_jax.ops", (), ("cml_jax.graphs",)),
    ("experiments", (), ("configs", "benchmarks", "tests")),
    ("configs", (), ("benchmarks", "tests")),
]
HEAVY = ("tensorflow", "tensorflow_datasets", "orbax", "matplotlib")


def forbidden(files) -> list[str]:
    """Arrows that must not be, each as "who imports whom"."""
    wrong = []
    for name, (tree, found) in files.items():
        for who, but, whom in FORBIDDEN:
            if within(name, who) and not within(name, *but):
                wrong += [f"{name} imports {other}" for other in found if within(other, *whom)]
        if within(name, "cml_jax"):
            top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
            at_top = imports(Path(name), ast.Module(top, []), set())
            wrong += [f"{name} imports {o} at its top" for o in at_top if within(o, *HEAVY)]
        if name.rpartition(".")[2] == "utils":
            wrong.append(f"{name}: a file called utils.py")
    return sorted(wrong)


def room(name: str) -> str:
    """`cml_jax.data` of `cml_jax.data.files`; a file beside the rooms is a room of its own."""
    return ".".join(name.split(".")[:2])


def circle(files, package: str) -> list[str]:
    """Rooms of a package that import each other in a circle; [] where there are none."""
    arrows: dict[str, set[str]] = {}
    for name, (_, found) in files.items():
        if within(name, package):
            others = {room(other) for other in found if within(other, package)}
            arrows.setdefault(room(name), set()).update(others - {room(name)})
    try:
        graphlib.TopologicalSorter(arrows).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def between_tests(files) -> list[str]:
    """Test files that import a test file."""
    return sorted(
        f"{name} imports {other}"
        for name, (_, found) in files.items()
        for other in found
        if within(name, "tests") and other.rpartition(".")[2].startswith(("test_", "conftest"))
    )


@pytest.fixture(scope="module")
def house():
    return read(ROOT)


def test_the_arrows_that_must_not_be(house):
    assert len(house) > 100
    assert forbidden(house) == []


@pytest.mark.parametrize("package", ["cml_jax", "experiments"])
def test_no_circle_between_rooms(house, package):
    assert circle(house, package) == []


def test_no_test_file_imports_another(house):
    assert between_tests(house) == []


WRONG = {
    "cml_jax/a.py": "def f():\n    import experiments.train",
    "cml_jax/data/b.py": "from ..data import c\nimport flax.linen as nn",
    "cml_jax/methods/d.py": "from ..tasks import episodes",
    "cml_jax/ops/e.py": "from cml_jax import graphs",
    "cml_jax/graphs/__init__.py": "from cml_jax import f",
    "cml_jax/f.py": "from cml_jax.graphs.x import y\nimport tensorflow_datasets as tfds",
    "cml_jax/utils.py": "import orbax.checkpoint\n\ndef f():\n    import matplotlib",
    "cml_jax/models/g.py": "import flax",
    "cml_jax/data/h.py": "",
    "experiments/i.py": "",
    "tests/library/test_j.py": "from test_k import l",
}


def test_what_must_not_be_is_seen(tmp_path):
    for name, text in WRONG.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    files = read(tmp_path)
    assert forbidden(files) == [
        "cml_jax.a imports experiments.train",
        "cml_jax.data.b imports flax.linen",
        "cml_jax.f imports tensorflow_datasets at its top",
        "cml_jax.methods.d imports cml_jax.tasks",
        "cml_jax.ops.e imports cml_jax.graphs",
        "cml_jax.utils imports orbax.checkpoint at its top",
        "cml_jax.utils: a file called utils.py",
    ]
    assert set(circle(files, "cml_jax")) == {"cml_jax.f", "cml_jax.graphs"}
    assert circle(files, "experiments") == []
    assert between_tests(files) == ["tests.library.test_j imports test_k"]
