"""The words of the interface are the field's, and each has one meaning: by introspection, not by text search."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

import fedrl
from fedrl.config import catalogue
from fedrl.config.synonyms import SYNONYMS, known_as

ROOT = Path(fedrl.__file__).parent
GONE = set((Path(__file__).parent / "vocabulary.txt").read_text().split())
"""Words of earlier versions that a researcher would not search for. `steps`, `unit` and `local` are plain, too."""
PLAIN = {
    ("spread", "report/run.py"),  # of an interval
    ("outcome", "wire/protocol.py"),  # what became of a message that was sent
    ("threshold", "secure/graph.py"),  # the shares that give a secret back, or the agents that open a sum
    ("threshold", "secure/additive.py"),
    ("threshold", "secure/encrypted.py"),
    ("threshold", "secure/plan.py"),
    ("threshold", "secure/shares.py"),
    ("threshold", "wire/secure_sum.py"),
}


def public(path: Path) -> list[tuple[str, str]]:
    """The names that a file shows: classes, functions, their parameters and the fields of records."""
    found: list[tuple[str, str]] = [(path.stem, "file")]

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
                found.append((child.name, "class"))
                found.extend(
                    (field.target.id, f"field of {child.name}")
                    for field in child.body
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
                )
                visit(child)
            elif isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
                found.append((child.name, "function"))
                arguments = child.args
                taken = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
                found.extend((each.arg, f"parameter of {child.name}") for each in taken)

    visit(ast.parse(path.read_text()))
    return found


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def test_no_public_name_is_of_the_private_vocabulary():
    found = [
        f"{path.relative_to(ROOT)}: {name}, {what}"
        for path in modules()
        for name, what in public(path)
        if name in GONE and (name, str(path.relative_to(ROOT))) not in PLAIN
    ]
    assert found == []


def test_no_two_public_classes_share_a_name():
    homes = defaultdict(set)
    for path in modules():
        for name, what in public(path):
            if what == "class":
                homes[name].add(str(path.relative_to(ROOT)))
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def test_the_check_finds_such_names(tmp_path):
    path = tmp_path / "office.py"
    path.write_text("class Hint:\n    told: int\ndef meet(lost, *, late): pass\ndef _meet(refused): pass\n")
    assert {name for name, _ in public(path)} & GONE == {"office", "Hint", "told", "meet", "lost", "late"}


def test_no_configuration_key_or_component_is_of_the_private_vocabulary():
    catalogue.fill()
    keys = {key for entry in catalogue.components() for key in entry.signature.parameters}
    names = {entry.name for entry in catalogue.components()}
    assert (keys | names) & GONE == set()


def test_a_synonym_names_what_there_is_and_is_no_name_itself():
    catalogue.fill()
    keys = {key for entry in catalogue.components() for key in entry.signature.parameters}
    names = {entry.name for entry in catalogue.components()}
    sections = {"agents", "rounds", "local_steps", "upload_budget", "global_optimizer", "selection", "aggregator"}
    for old, ours in SYNONYMS.items():
        assert set(ours) <= keys | names | sections, old


@pytest.mark.parametrize(
    ("name", "ours"),
    [("n_steps", "num_steps"), ("ent_coef", "entropy_coef"), ("clip_range", "clip"), ("update_epochs", "num_epochs")],
)
def test_a_key_of_another_library_is_answered_with_ours(name, ours):
    (ppo,) = [entry for entry in catalogue.components("learner") if entry.name == "ppo"]
    assert known_as(name, ppo.signature.parameters).startswith(f"Here it is called {ours!r}.")
