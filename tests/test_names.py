"""Constructor calls are read for names, configuration files, citations and digests, and for nothing else."""

import ast
from pathlib import Path

import fedrl

ROOT = Path(fedrl.__file__).parent
NAMING = {
    "core/component.py",  # repr, equality, digest, citation
    "core/hyperparameters.py",  # which numbers are inputs of programs, and the constructors that take them
    "federation/wire_digest.py",  # which federations speak the same wire
    "engines/program_cache.py",  # which compiled programs are equal
    "engines/distributed/portable.py",  # how components are sent to workers
    "config/catalogue.py",  # tables of configuration files
    "config/loading.py",
    "runs/summary.py",  # citations
}
READERS = {"call_of", "calls_in", "cite", "Call"}


def reads(source: str) -> list[str]:
    """Where a module reads a constructor call: `x.call`, `x.arguments`, or the functions that do."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr in ("call", "arguments"):
            found.append(f"line {node.lineno}: .{node.attr}")
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in READERS - {"Call"}:
            found.append(f"line {node.lineno}: {node.id}")
    return found


def test_no_module_but_those_of_naming_reads_constructor_calls():
    found = {
        str(path.relative_to(ROOT)): reads(path.read_text())
        for path in sorted(ROOT.rglob("*.py"))
        if str(path.relative_to(ROOT)) not in NAMING
    }
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_the_check_sees_a_reader():
    assert reads("given = federation.call.arguments['payload']") == ["line 1: .arguments", "line 1: .call"]
    assert reads("names = {c.component.name for c in calls_in(learner)}") == ["line 1: calls_in"]
    assert all(reads((ROOT / name).read_text()) for name in NAMING)
