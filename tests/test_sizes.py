"""Files and functions stay small enough to be read at once; the linter checks complexity and statements."""

import ast
from pathlib import Path

import fedrl

ROOT = Path(fedrl.__file__).parent
MOST_LINES, LONGEST_FUNCTION = 400, 80


def functions(source: str) -> list[tuple[str, int]]:
    """The functions of a module, and how many lines each takes without its docstring."""

    def length(node: ast.FunctionDef) -> int:
        first = node.body[0]
        prose = 0
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            prose = (first.end_lineno or 0) - first.lineno + 1
        return (node.end_lineno or 0) - node.lineno + 1 - prose

    return [(node.name, length(node)) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]


def test_no_file_is_longer_than_it_should_be():
    lengths = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in ROOT.rglob("*.py")}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_no_function_is_longer_than_it_should_be():
    found = {
        f"{path.relative_to(ROOT)}: {name}": length
        for path in ROOT.rglob("*.py")
        for name, length in functions(path.read_text())
        if length > LONGEST_FUNCTION
    }
    assert found == {}


def test_the_length_of_a_function_is_that_of_its_code():
    source = 'def one():\n    """Says\n    so."""\n    return 1\n\n\nclass Kind:\n    def two(self):\n        pass\n'
    assert functions(source) == [("one", 2), ("two", 2)]
