"""The READMEs: their code uses names that exist, their commands and studies are there, the models they load ship."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest
from typer.main import get_command

import bayesdiff as bd
from validation.__main__ import STUDIES

ROOT = Path(__file__).resolve().parents[1]
README = "\n".join((ROOT / name).read_text() for name in ("README.md", "validation/README.md"))
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = sorted(set(re.findall(r"python -m (inference|models|validation) ([a-z_]+)", README)))
ARGUMENTS = sorted(set(re.findall(r"python -m models train ([a-z_]+)", README)))


def dotted(node: ast.AST) -> str | None:
    """``bd.fields.histogram`` of an attribute of a name, else None."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        value = dotted(node.value)
        return None if value is None else f"{value}.{node.attr}"
    return None


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_code_uses_what_exists(block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            module = import_module(node.module or "")
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
        name = dotted(node)
        if isinstance(node, ast.Attribute) and name is not None and name.startswith("bd."):
            found = bd
            for part in name.split(".")[1:]:
                found = getattr(found, part)
    for name in re.findall(r'load_pretrained\("(.*?)"\)', block):
        assert name in bd.list_pretrained()


@pytest.mark.parametrize(("package", "command"), COMMANDS, ids=" ".join)
def test_commands_are_there(package: str, command: str) -> None:
    commands = get_command(import_module(f"{package}.__main__").app)
    assert command in commands.list_commands(None)  # type: ignore[attr-defined, arg-type]


def test_recipes_are_there() -> None:
    recipes = [recipe.value for recipe in import_module("models.__main__").Recipe]
    assert ARGUMENTS
    assert set(ARGUMENTS) <= set(recipes)


def test_studies_are_there() -> None:
    named = re.findall(r"\(stud(?:y|ies) ([^;)]*)", README)
    studies = {name for text in named for name in re.findall(r"`([a-z_]+)`", text)}
    assert len(studies) >= 10
    assert studies <= set(STUDIES)


def test_there_is_something_to_check() -> None:
    assert len(BLOCKS) >= 4
    assert len(COMMANDS) >= 10


@pytest.mark.parametrize("package", ["inference", "models", "validation"])
def test_help_is_shown_whole(package: str) -> None:
    """Square brackets in it are taken for markup, and what is between them is not shown."""
    group = get_command(import_module(f"{package}.__main__").app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        for option in command.params:
            text = getattr(option, "help", None) or ""
            assert "[" not in text, f"{package} {name}: {text}"
