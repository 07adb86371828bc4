"""The papers say what is: their tables, links, commands, module names and layers, held against the code."""

from __future__ import annotations

import ast
import itertools
import json
import re
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from devstral_proxy import __version__
from devstral_proxy.app import create_app
from devstral_proxy.cli import parser
from devstral_proxy.config import load
from devstral_proxy.mistral.rewrites import REWRITES
from qa.doc_tables import TABLES, filled, tables_of

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "devstral_proxy"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "tests" / "data").rglob("*.md")])
SANS_IO = ("mistral", "dialects", "upstream/sse", "upstream/capabilities")
IO = {"starlette", "uvicorn", "httpx", "asyncio", "anyio", "socket", "threading", "time", "os", "random", "secrets"}


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


ARCHITECTURE = text("docs/architecture.md")
FAILURE_MODES = text("docs/failure-modes.md")
README = text("README.md")


def section(page: str, title: str) -> str:
    """The text under a heading, up to the next of its level."""
    level = re.escape(title.split(" ")[0])
    found = re.search(rf"^{re.escape(title)}\n(.*?)(?=^{level} |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def cells(table: str) -> list[list[str]]:
    """The rows of the tables in a text, heads and rules left out."""
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines() if line[:1] == "|"
    ]
    rules = {index for index, row in enumerate(rows) if all(set(cell) <= set("-: ") for cell in row)}
    return [row for index, row in enumerate(rows) if index not in rules and index + 1 not in rules]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# ---------------------------------------------------------------- tables made from the code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_are_the_code_s_own(page: Path) -> None:
    content = page.read_text("utf-8")
    assert filled(content) == content, "run: python -m qa.doc_tables --write"


def test_every_table_has_its_place() -> None:
    assert {name for page in PAGES for name in tables_of(page.read_text("utf-8"))} == TABLES.keys()


# ---------------------------------------------------------------- failure modes


def modes() -> dict[str, list[str]]:
    return {row[0]: row for row in cells(FAILURE_MODES) if re.fullmatch(r"F\d\d", row[0])}


def test_every_failure_mode_has_its_row() -> None:
    assert list(modes()) == [f"F{number:02d}" for number in range(1, 86)]
    assert all(all(row) for row in modes().values()), "an empty cell"


@pytest.mark.parametrize("mode", modes())
def test_a_row_names_what_is_there(mode: str) -> None:
    where = names(modes()[mode][-2])
    for name in where:
        assert name in REWRITES or (PACKAGE / name).is_file(), f"{mode}: there is no {name}"
    made = {name for name, rewrite in REWRITES.items() if mode in rewrite.modes.split()}
    assert made <= set(where), f"{mode}: mistral/rewrites.py says that it is also {made - set(where)}"


# ---------------------------------------------------------------- links, paths, commands


def anchors(page: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked.read_text("utf-8")), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_machine_s_own_paths(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(work|tmp|home|root)\b", page.read_text("utf-8"))


@pytest.mark.parametrize("name", ["README.md", "AGENTS.md"])
def test_commands_exist(name: str) -> None:
    page = text(name)
    commands = "\n".join([*re.findall(r"^    (.*)$", page, re.MULTILINE), *re.findall(r"`([^`\n]+)`", page)])
    targets = set(re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE))
    asked = set(re.findall(r"\bmake ([a-z]+)", commands))
    assert {"demo", "test"} <= asked <= targets
    known = {choice for action in parser()._actions for choice in (action.choices or ())}
    assert set(re.findall(r"^(?:\S*bin/)?devstral-proxy ([a-z]+)", commands, re.MULTILINE)) <= known
    for script in re.findall(r"python ([\w/]+\.py)", commands):
        assert (ROOT / script).is_file(), script
    for module in re.findall(r"python -m (qa[\w.]+)", commands):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module


@pytest.mark.parametrize("name", ["README.md", "AGENTS.md", "docs/architecture.md", "docs/failure-modes.md"])
def test_files_that_are_named_exist(name: str) -> None:
    for path in names(text(name)):
        if re.fullmatch(r"[\w./-]*\w\.(py|md|jsonl|gz)|(tests|qa|docs|devstral_proxy)/[\w/]*", path):
            assert (ROOT / path).exists() or (PACKAGE / path).exists(), path


# ---------------------------------------------------------------- README


def test_the_paths_of_the_readme_are_those_that_are_served() -> None:
    told = {name.removeprefix("POST ").removeprefix("GET ") for row in cells(README) for name in names(row[0])}
    served = {getattr(route, "path", "") for route in create_app(load()).routes}
    served = {re.sub(r"{[a-z:]+}", "ID", path) for path in served} - {"/chat/completions"}  # the careless spelling
    assert told == served


def test_the_agent_s_snippet() -> None:
    found = re.search(r"```json\n(.*?)```", README, re.DOTALL)
    assert found
    config: dict[str, Any] = json.loads(found[1])
    provider, model = config["model"].split("/")
    assert model in config["provider"][provider]["models"]
    defaults = load()
    base = f"http://{defaults.proxy_host}:{defaults.proxy_port}/v1"
    assert config["provider"][provider]["options"]["baseURL"] == base
    assert base in README.replace(found[0], "")


def test_the_changelog_has_this_version() -> None:
    assert f"\n## [{__version__}]" in text("CHANGELOG.md")


# ---------------------------------------------------------------- architecture


def layer_of(module: str) -> str:
    """The row of the table of layers that a module of the package belongs to."""
    path = module.removeprefix("devstral_proxy").lstrip(".").replace(".", "/")
    return path if path in ("upstream/sse", "upstream/capabilities") else path.split("/")[0]


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports, inside functions too; those that only types need are left out."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            real = [name for name in submodules if (ROOT / f"{name.replace('.', '/')}.py").exists()]
            yield from real or [node.module]


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name not in ("__init__.py", "__main__.py", "main.py"))
LAYERS = {names(row[0])[0]: set(names(row[1])) for row in cells(section(ARCHITECTURE, "## Layers"))}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_layers(path: Path) -> None:
    module = str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
    layer = layer_of(module)
    for name in imports(path):
        if name == "devstral_proxy":
            continue  # the version
        if name.startswith("devstral_proxy."):
            assert layer_of(name) in LAYERS[layer] | {layer}, f"imports {name}"
        elif layer in SANS_IO:
            assert name.split(".")[0] not in IO, f"imports {name}"


def test_every_layer_is_there() -> None:
    there = {layer_of(str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")) for path in MODULES}
    assert LAYERS.keys() == there
    assert set(SANS_IO) <= there


def test_the_library_s_snippet() -> None:
    lines = re.findall(r"^    from (devstral_proxy[\w.]*) import (\w+)$", ARCHITECTURE, re.MULTILINE)
    assert len(lines) == 2
    for module, name in lines:
        assert hasattr(import_module(module), name)


def test_dependencies() -> None:
    project = tomllib.loads(text("pyproject.toml"))
    given = [
        *project["project"]["dependencies"],
        *itertools.chain.from_iterable(project["project"]["optional-dependencies"].values()),
        *project["build-system"]["requires"],
    ]
    needed = {re.split(r"[<>=;~! ]", requirement)[0] for requirement in given}
    told = {name for row in cells(section(ARCHITECTURE, "## Dependencies")) for name in names(row[0])}
    assert told == needed
