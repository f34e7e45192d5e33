"""The tests that the documentation names are there: ``tests/path/test_x.py::test_name``, or ``fastq/testing/…``."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.rst"))

_REFERENCE = re.compile(r"``((?:tests|fastq/testing)/[\w/]+\.py)(?:::(\w+))?``")


@cache
def names_in(path: str) -> frozenset[str]:
    """Return the names of the functions and methods in a file; none if it is not there."""
    file = ROOT / path
    tree = ast.parse(file.read_text("utf-8") if file.is_file() else "")
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def missing(text: str) -> list[str]:
    """Return the references in a page that lead nowhere."""
    return [
        f"{path}::{name}" if name else path
        for path, name in _REFERENCE.findall(text)
        if (name not in names_in(path) if name else not (ROOT / path).is_file())
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT / "docs")))
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    assert missing(page.read_text("utf-8")) == []


def test_a_reference_that_leads_nowhere_is_found() -> None:
    here = "tests/test_references.py"
    assert missing(f"``{here}::test_a_reference_that_leads_nowhere_is_found`` and ``{here}``") == []
    assert missing(f"``{here}::test_nothing`` ``tests/test_nobody.py::test_x`` ``tests/nobody.py``") == [
        f"{here}::test_nothing", "tests/test_nobody.py::test_x", "tests/nobody.py"
    ]  # fmt: skip
