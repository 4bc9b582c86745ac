"""How the package is built: its folders, and how long a module and a function may be."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "xgradcam"
FOLDERS = {
    *("capture", "cam", "cli", "evaluation", "figures", "layouts", "lending"),
    *("models", "operations", "pictures", "proof", "runs", "scores"),
}
CORE = ("capture", "cam", "proof")
LONGEST_MODULE, LONGEST_FUNCTION, LARGEST_CORE = 350, 45, 3_500

MODULES = sorted(PACKAGE.rglob("*.py"))


def lines_of(path):
    return len(path.read_text(encoding="utf-8").splitlines())


def long_functions(path):
    """Functions of the file that are too long, without their decorators, as 'path:line name (length)'."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            if length > LONGEST_FUNCTION:
                yield f"{path}:{node.lineno} {node.name} ({length} lines)"


def test_the_folders_are_the_thirteen_of_the_house():
    assert {path.parent.name for path in PACKAGE.glob("*/*.py")} == FOLDERS


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_a_folder_says_what_it_is_for_and_imports_nothing(folder):
    tree = ast.parse((PACKAGE / folder / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1


def test_no_module_is_long():
    assert len(MODULES) > 40
    assert [f"{path} ({lines_of(path)} lines)" for path in MODULES if lines_of(path) > LONGEST_MODULE] == []


def test_no_function_is_long():
    assert [function for path in MODULES for function in long_functions(path)] == []


def test_a_function_that_is_too_long_is_found(tmp_path):
    path = tmp_path / "module.py"
    body = "        pass\n" * LONGEST_FUNCTION
    path.write_text(f"class Thing:\n    @property\n    async def work(self):\n{body}")
    assert list(long_functions(path)) == [f"{path}:3 work ({LONGEST_FUNCTION + 1} lines)"]
    path.write_text(path.read_text().replace("        pass\n", "", 1))
    assert list(long_functions(path)) == []


def test_the_core_stays_small():
    assert sum(lines_of(path) for folder in CORE for path in PACKAGE.glob(f"{folder}/*.py")) < LARGEST_CORE
