"""The repository's own rules: sizes, names, rooms."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("agent", "allocator", "cluster", "cni", "datapath")
BANNED = {"utils", "helpers", "common", "misc", "base", "manager", "types", "handler"}
FILE_LINES, HEADER_LINES, PROGRAM_LINES, FUNCTION_LINES = 300, 350, 200, 40
# One table each, which is easier to read whole than split.
LONGER: dict[str, int] = {}

PYTHON = sorted(path for room in (*ROOMS, "perf", "tests") for path in (ROOT / room).rglob("*.py"))
SHIPPED = [path for path in PYTHON if path.relative_to(ROOT).parts[0] in ROOMS]


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_files_stay_small() -> None:
    limits = {path: FILE_LINES for path in [*PYTHON, *(ROOT / "cni").glob("*.[ch]")]}
    limits |= {path: PROGRAM_LINES for path in (ROOT / "bpf").glob("*.c")}
    limits |= {path: HEADER_LINES for path in (ROOT / "bpf" / "lib").glob("*.h")}
    known = {ROOT / name: limit for name, limit in LONGER.items()}
    too_long = {str(path): lines(path) for path, limit in (limits | known).items() if lines(path) > limit}
    assert not too_long


def test_functions_stay_small() -> None:
    too_long = []
    for path in SHIPPED:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > FUNCTION_LINES:
                    too_long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length}")
    assert not too_long


def test_names_say_what_a_module_is_about() -> None:
    assert not [str(path) for path in PYTHON if path.stem in BANNED]


def caught(handler: ast.ExceptHandler) -> set[str]:
    """The last part of each name a handler catches; of a bare `except`, the empty name."""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return {ast.unparse(kind).rpartition(".")[2] if kind else "" for kind in kinds}


def own_nodes(handler: ast.ExceptHandler) -> list[ast.AST]:
    """What a handler itself does, without the bodies of functions that it only defines."""
    found: list[ast.AST] = list(handler.body)
    for node in found:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            found += ast.iter_child_nodes(node)
    return found


def hands_on(handler: ast.ExceptHandler) -> bool:
    """Whether a handler raises, or calls something with the error it caught."""
    nodes = own_nodes(handler)
    arguments = [value for node in nodes if isinstance(node, ast.Call)
                 for value in (*node.args, *(keyword.value for keyword in node.keywords))]  # fmt: skip
    passed = {value.id for value in arguments if isinstance(value, ast.Name)}
    return handler.name in passed or any(isinstance(node, ast.Raise) for node in nodes)


def test_there_is_no_broad_catch_without_a_reason() -> None:
    """No bare `except` and no `except Exception`; BaseException only where it is raised again or handed on."""
    broad = []
    for path in SHIPPED:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                names = caught(node)
                if names & {"", "Exception"} or ("BaseException" in names and not hands_on(node)):
                    broad.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not broad


def test_the_package_ships_every_room_and_every_program() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert set(ROOMS) <= set(tools["packages"])
    shipped = {path for package, globs in tools["package-data"].items() for pattern in globs
               for path in ROOT.joinpath(*package.split(".")).glob(pattern)}  # fmt: skip
    wanted = {path for path in (ROOT / "bpf").rglob("*.[ch]")} | set((ROOT / "cni").glob("*.[ch]"))
    assert wanted <= shipped


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_the_readme_names_the_two_commands(command: str) -> None:
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")
    target = command.removeprefix("make ")
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
