"""README and docs tell the truth: code blocks run, commands parse, recipes and options exist, links lead somewhere.

Marks are HTML comments on the line before a ```python block: ``<!-- runs: scenes -->`` needs generated data in
``runs/scenes``, ``<!-- runs: scenes model -->`` also a trained model in ``runs/first``; a block under
``<!-- illustration -->`` is not run.
Blocks of a page share their names and a temporary working folder.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tyro
from pydantic import BaseModel

from patchword import cli
from patchword.config import DataConfig, TrainConfig, parse_overrides
from patchword.config_keys import models_in
from patchword.methods import METHODS, method_class
from patchword.recipe import find_recipe, load_recipe
from patchword.verbs.measuring import Leaderboard

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
# Their blocks open data sets that can not be shipped: they are compiled, not run.
NEED_REAL_DATA = {"data.md"}
FILE_TYPES = {"md", "py", "tsv", "csv", "jsonl", "json", "npy", "safetensors", "yaml"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, text, first line and the mark before it."""

    language: str
    text: str
    line: int
    mark: str

    @property
    def needs(self) -> set[str]:
        """What must lie in the working folder."""
        found = re.match(r"<!--\s*runs:?(.*?)-->", self.mark)
        return set(found.group(1).split()) if found else set()

    @property
    def is_illustration(self) -> bool:
        """Whether the block is only to be looked at."""
        return self.mark.startswith("<!-- illustration")


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    found, lines, k = [], page.read_text(encoding="utf-8").splitlines(), 0
    while k < len(lines):
        if lines[k].startswith("```"):
            end = next(n for n in range(k + 1, len(lines)) if lines[n].startswith("```"))
            before = lines[k - 1] if k else ""
            found.append(Block(lines[k][3:].strip(), "\n".join(lines[k + 1 : end]), k + 2, before))
            k = end
        k += 1
    return found


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """Lines of fenced blocks that call patchword."""
    lines = [line for block in blocks(page) if block.language in ("", "bash") for line in block.text.splitlines()]
    return [line for line in lines if re.match(r"(torchrun .* -m )?patchword ", line)]


def parse_command(line: str) -> Any:
    """Parse a command as ``patchword`` would, without running it; dotted options are checked against the recipe."""
    words = shlex.split(line.split("-m patchword")[-1] if line.startswith("torchrun") else line, comments=True)
    words = words[1:] if words[0] == "patchword" else words
    verb, rest = words[0], words[1:]
    assert verb in cli.VERBS, f"unknown verb in: {line}"
    module, _, name = cli.VERBS[verb][0].partition(":")
    function = getattr(import_module(module), name)
    takes_overrides: Any = getattr(function, "takes_overrides", False)
    parsed: Any = tyro.cli(
        tyro.conf.configure(tyro.conf.FlagCreatePairsOff)(cli._deferred(function)),
        args=rest,
        return_unknown_args=takes_overrides,
    )
    if not takes_overrides:
        return parsed
    call, dotted = parsed
    if verb == "bench":
        assert not dotted or isinstance(call.keywords["what"], Leaderboard), line
        return call
    if verb == "doctor" and call.keywords["what"] == "data":
        assert not dotted, line
        return call
    recipe = call.keywords["path" if verb == "doctor" else "recipe"]
    if Path(recipe).name != "my.yaml":
        load_recipe(ROOT / "recipes" / f"{Path(recipe).stem}.yaml", dotted)
    else:
        parse_overrides(dotted)
    return call


def known_keys(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """Dotted names of all fields of a configuration, those of its towers included."""
    for key, info in model.model_fields.items():
        yield f"{prefix}.{key}"
        for inner in models_in(info.annotation):
            yield from known_keys(inner, f"{prefix}.{key}")


def all_keys() -> set[str]:
    """Every dotted name that some recipe may hold."""
    keys = {*known_keys(DataConfig, "data"), *known_keys(TrainConfig, "train")}
    for name in list(METHODS):
        cls: Any = method_class(name)
        keys |= {*known_keys(cls.Config, "model"), *known_keys(cls.Loss, "loss")}
    return keys


def slug(heading: str) -> str:
    """Anchor of a heading."""
    plain = re.sub(r"`|\[([^\]]*)\]\([^)]*\)", lambda m: m.group(1) or "", heading)
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def run_blocks(page: Path, found: list[Block]) -> ModuleType:
    """Run blocks one after the other in the current folder, with shared names."""
    module = ModuleType(f"page_{page.stem}")
    sys.modules[module.__name__] = module
    try:
        for block in found:
            tree = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
            exec(tree, module.__dict__)
    finally:
        del sys.modules[module.__name__]
    return module


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated data, made once."""
    from patchword.data.scenes import write_scenes

    return write_scenes(tmp_path_factory.mktemp("world") / "scenes", train=60, dev=10, test=20)


@pytest.fixture(scope="session")
def first_run(scenes: Path) -> Path:
    """A run on it, one epoch of a narrow model."""
    from patchword.train.run import train

    changes = {
        "data": {"root": str(scenes)},
        "model": {"joint_dim": 32},
        "train": {"epochs": 1, "batch_size": 50},
    }
    return train("chan_scenes", scenes.parent / "first", overrides=changes).run


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder; whatever a page adds to the table of methods is taken out again."""
    monkeypatch.chdir(tmp_path)
    before = dict(METHODS)
    yield tmp_path
    METHODS.clear()
    METHODS.update(before)


def furnish(place: Path, needs: set[str], request: pytest.FixtureRequest) -> None:
    """Put what a page needs into its working folder."""
    assert needs <= {"scenes", "model"}, f"unknown needs: {needs}"
    if "scenes" in needs:
        shutil.copytree(request.getfixturevalue("scenes"), place / "runs" / "scenes")
    if "model" in needs:
        shutil.copytree(request.getfixturevalue("first_run"), place / "runs" / "first")


def with_python() -> list[Path]:
    """Pages that have code to run."""
    return [p for p in PAGES if p.name not in NEED_REAL_DATA and any(b.language == "python" for b in blocks(p))]


@pytest.mark.integration
@pytest.mark.parametrize("page", with_python(), ids=lambda p: p.stem)
def test_code_blocks_run(page: Path, workplace: Path, request: pytest.FixtureRequest) -> None:
    found = [block for block in blocks(page) if block.language == "python" and not block.is_illustration]
    furnish(workplace, set().union(*(block.needs for block in found)), request)
    run_blocks(page, found)


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda p: p.stem)
def test_code_blocks_compile(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            ast.parse(block.text)


@pytest.mark.parametrize("page", [README, *PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda p: p.stem)
def test_commands_parse(page: Path) -> None:
    for line in commands(page):
        parse_command(line)
    for span in re.findall(r"`patchword (\w+)", prose(page)):
        assert span in cli.VERBS or span == "VERB", f"`patchword {span}` is no verb"


def test_examples_of_the_help_parse() -> None:
    for _, _, examples in cli.VERBS.values():
        for example in examples:
            parse_command(example)


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda p: p.stem)
def test_dotted_names_exist(page: Path) -> None:
    keys = all_keys()
    for span in re.findall(r"`([^`\n]+)`", prose(page)):
        for word in span.split():
            found = re.fullmatch(r"(?:--)?((?:data|model|loss|train)(?:\.[a-z_]+)+):?", word)
            if found and found.group(1).rpartition(".")[2] not in FILE_TYPES and "model.method." not in word:
                assert found.group(1) in keys, f"`{found.group(1)}` is no key of a recipe"


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda p: p.stem)
def test_recipes_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    methods = r"(?:chan|vse_inf(?:_mean)?|esl_[ha]|scta|laps|cefg_(?:sgr|saf)|hrem|aahr)"
    for name in re.findall(rf"\b({methods}_(?:f30k|coco|flickr8k|photos)_\w+)", text):
        find_recipe(ROOT / "recipes" / f"{name}.yaml")


@pytest.mark.parametrize("page", [README, *PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda p: p.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.is_file(), f"{page.name} links to '{target}', which is not there"
        if anchor:
            headings = re.findall(r"^#+\s+(.*)$", prose(linked), flags=re.MULTILINE)
            assert anchor in {slug(h) for h in headings}, f"{page.name} links to '{target}': no such heading"


def test_every_page_is_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES:
        assert f": {page.relative_to(ROOT / 'docs').as_posix()}" in menu
