"""The pages of the guide are true: their programs run, with a worker, and their sessions print what they say."""

from __future__ import annotations

import doctest
import importlib
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fastq import FastQ
from fastq.testing.workers import running_worker

GUIDE = Path(__file__).parent.parent / "docs" / "guide"
PAGES = sorted(page for page in GUIDE.glob("*.rst") if page.stem != "index")

_BLOCK = re.compile(r"^\.\. code-block:: python\n\n((?:(?: {4}.*)?\n)+)", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_of_the_guide_does_what_it_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    text = page.read_text("utf-8")
    name = f"guide_{page.stem.replace('-', '_')}"
    program = "\n".join(re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in _BLOCK.findall(text))
    (tmp_path / f"{name}.py").write_text(program)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    app: FastQ = module.app
    app.settings = replace(app.settings, broker=f"sqlite:///{tmp_path}/fastq.db")
    session = doctest.DocTestParser().get_doctest(_BLOCK.sub("", text), dict(vars(module)), page.stem, str(page), 0)
    problems: list[str] = []
    try:
        with running_worker(app, f"{name}:app", folder=str(tmp_path), concurrency=2):
            options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
            doctest.DocTestRunner(optionflags=options).run(session, out=problems.append)
    finally:
        app.close()
        del sys.modules[name]
    assert not problems, "".join(problems)


def test_every_page_is_in_the_index() -> None:
    index = (GUIDE / "index.rst").read_text("utf-8")
    assert [page.stem for page in PAGES if f":doc:`{page.stem}`" not in index] == []
