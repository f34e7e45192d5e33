"""The pages for newcomers do what they say: their programs, commands and dialogues are run, in their order."""

import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from tests.cli.terminal import Worker, environment, worker

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^\.\. code-block:: (\w+)\n(?:   :name: (\S+)\n)?\n((?:    .*\n|\n)+)", re.MULTILINE)


class Block(NamedTuple):
    language: str
    name: str
    text: str


def blocks_of(page: Path) -> Iterator[Block]:
    for language, name, text in BLOCK.findall(page.read_text("utf-8")):
        yield Block(language, name, textwrap.dedent(text).strip("\n") + "\n")


class Reader:
    """Does what a page says, in a folder of its own; there is one worker at a time."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.stack = stack
        self.worker: Worker | None = None

    def save(self, name: str, text: str) -> None:
        path = self.folder / name
        if path.parent != self.folder:
            path.parent.mkdir()
            (path.parent / "__init__.py").touch()
        path.write_text(text)

    def enter(self, dialogue: str) -> None:
        """Enter the commands of a console, and check that what is shown comes in the order in which it is shown."""
        for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", dialogue, re.MULTILINE):
            if command.startswith("fastq worker"):
                self.start_worker(*shlex.split(command)[2:])
                continue
            words = shlex.split(command)
            program = [sys.executable, *(["-m", "fastq"] if words[0] == "fastq" else []), *words[1:]]
            ended = subprocess.run(
                program, cwd=self.folder, env=environment(), capture_output=True, text=True, timeout=60, check=True
            )
            found = ended.stderr + ended.stdout
            pattern = ".*".join(re.escape(part) for part in re.split(r"\s*…\s*", shown.rstrip()))
            assert re.search(pattern, found, re.DOTALL), f"{command} shows\n{found}"

    def start_worker(self, *options: str) -> None:
        if self.worker is not None:
            self.worker.stop()
            for module in self.folder.glob("*.py"):
                module.unlink()
        self.worker = self.stack.enter_context(worker(*options, folder=self.folder))

    def talk(self, dialogues: list[str]) -> None:
        """Hold the dialogues with Python, which are one session."""
        (self.folder / "dialogue.txt").write_text("\n".join(dialogues))
        ended = subprocess.run(
            [sys.executable, "-m", "doctest", "-o", "ELLIPSIS", "dialogue.txt"],
            cwd=self.folder, env=environment(), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("name", ["README.rst", "docs/getting-started.rst"])
def test_a_page_is_true(name, tmp_path):
    session: list[str] = []
    with ExitStack() as stack:
        reader = Reader(tmp_path, stack)
        for block in blocks_of(ROOT / name):
            if block.language == "pycon":
                session.append(block.text)
            elif block.language == "python":
                reader.talk(session)
                session.clear()
                reader.save(block.name, block.text)
            else:
                reader.enter(block.text)
        reader.talk(session)


def test_the_first_example_is_that_of_the_readme():
    (program,) = (block for block in blocks_of(ROOT / "README.rst") if block.name == "tasks.py")
    assert (ROOT / "examples" / "hello.py").read_text() == program.text


def test_the_page_of_the_command_line_has_every_option_of_every_command():
    text = (ROOT / "docs" / "cli.rst").read_text("utf-8")
    from fastq.cli import fastq

    for name, command in commands_of(fastq, ""):
        assert f"``fastq {name}" in text
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        assert not {option for option in options if f"``{option}" not in text}


def commands_of(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield prefix + name, command
        if isinstance(command, click.Group):
            yield from commands_of(command, f"{prefix}{name} ")


@pytest.mark.parametrize(
    "name", ["README.rst", "CHANGELOG.rst", "CONTRIBUTING.rst", "docs/cli.rst", "docs/getting-started.rst"]
)
def test_links_of_a_page_lead_to_files(name):
    page = ROOT / name
    links = re.findall(r"`[^`<]+ <([^>:]+)>`_", page.read_text("utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]
