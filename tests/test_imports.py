"""What importing costs, which way imports point, and what must never be there."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import time
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

import patchword

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "patchword"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("torch", "transformers", "torchvision", "accelerate", "datasets", "numpy", "PIL", "pydantic", "tyro", "rich")

# Data flows from low to high; a module may import its own floor and lower ones, but no two parts import each other.
FLOORS = (
    ("errors", "types", "config", "config_keys", "console", "callable_package", "files", "threads", "precision"),
    ("data",),
    ("html", "layers", "encoders", "losses"),
    ("methods",),
    ("scoring", "recipe", "recipe_keys", "checkpoint"),
    ("model",),
    ("zero_shot",),
    ("loading",),
    ("importers", "evaluate"),
    ("train", "search", "explain", "export"),
    ("store",),
    ("shortlist",),
    ("index", "report"),
    ("retrieve",),
    ("parity", "bench", "demo"),
    ("cli", "verbs", "web", "__main__"),
)
FLOOR_OF = {name: k for k, names in enumerate(FLOORS) for name in names}
# Short cuts to what stands above, imported on first use: ``Model.search``, ``patchword.index.Index``.
SHORT_CUTS = {("model", "search"), ("index", "retrieve")}


def part_of(module: Path) -> str:
    """Package or top-level module that a file belongs to; empty for ``patchword/__init__.py``."""
    parts = module.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imports_of(module: Path) -> Iterator[tuple[str, int]]:
    """Dotted names that a file imports, wherever in it, with their lines."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative import"
            yield str(node.module), node.lineno


def loaded_by(*arguments: str) -> set[str]:
    """Top-level packages that a fresh Python imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert loaded_by("-c", "import patchword").isdisjoint(HEAVY)


def test_help_imports_nothing_heavy() -> None:
    assert loaded_by("-m", "patchword", "--help").isdisjoint(HEAVY)


def test_help_answers_at_once() -> None:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "patchword", "--help"], check=True, capture_output=True, cwd=ROOT)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.5


def test_public_names_stay_callable() -> None:
    """``patchword.train`` is also the name of a sub-package, which must not take its place once it is imported."""
    code = (
        "import patchword, patchword.train.run, patchword.evaluate.run\n"
        "assert callable(patchword.train) and callable(patchword.evaluate), 'a sub-package is in the way'\n"
        "from patchword import evaluate, train\n"
        "assert callable(evaluate) and callable(train)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_are_told_without_being_imported() -> None:
    code = (
        "import re, sys, patchword\n"
        "listed = re.findall(r'^\\* ``(\\w+)', patchword.__doc__, re.M)\n"
        "assert listed == patchword.__all__, listed\n"
        "assert set(patchword.__all__) <= set(dir(patchword))\n"
        "import patchword.train\n"
        "assert 'torch' not in sys.modules\n"
        "for name in patchword.__all__: getattr(patchword, name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["search", "index"])
def test_public_modules_need_no_import_of_their_own(name: str) -> None:
    code = f"import patchword; print(patchword.{name}.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == f"patchword.{name}\n"


@pytest.mark.parametrize("name", ["evaluate", "explain", "export", "train"])
def test_a_callable_package_shows_its_function(name: str) -> None:
    package, function = getattr(patchword, name), getattr(import_module(f"patchword.{name}.run"), name)
    assert isinstance(package, ModuleType)
    assert inspect.signature(package) == inspect.signature(function)
    assert inspect.getdoc(package) == inspect.getdoc(function)


def test_every_part_has_a_floor() -> None:
    parts = {part_of(module) for module in MODULES} - {""}
    assert parts <= set(FLOOR_OF), f"give {parts - set(FLOOR_OF)} a floor"


@pytest.mark.parametrize("module", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_floor_imports_a_higher_one(module: Path) -> None:
    mine = part_of(module)
    if not mine:
        return  # the public names, imported on first use
    for name, line in imports_of(module):
        package, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if package == "patchword" and other and (mine, other) not in SHORT_CUTS:
            assert FLOOR_OF[other] <= FLOOR_OF[mine], f"{module}:{line}: {mine} imports {other}, which stands above it"


def test_no_parts_import_each_other_in_a_circle() -> None:
    lower: dict[str, set[str]] = {}
    for module in MODULES:
        mine = part_of(module)
        others = {name.split(".")[1] for name, _ in imports_of(module) if name.startswith("patchword.")}
        lower.setdefault(mine, set()).update(other for other in others - {mine} if (mine, other) not in SHORT_CUTS)
    del lower[""]  # the public names, imported on first use
    TopologicalSorter(lower).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("folder", ["patchword", "tests"])
def test_no_file_is_longer_than_400_lines(folder: str) -> None:
    long = {
        str(path): count
        for path in (ROOT / folder).rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long


def test_torchvision_is_nowhere() -> None:
    assert find_spec("torchvision") is None, "torchvision is installed, and breaks the image processors of transformers"
    for module in [*MODULES, *(ROOT / "tests").rglob("*.py")]:
        for name, line in imports_of(module):
            assert name.partition(".")[0] != "torchvision", f"{module}:{line}"


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports them by name: two of one name in different folders are refused, but only when both are run."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert not sorted({name for name in names if names.count(name) > 1})
