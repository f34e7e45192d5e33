"""Each wrong input ends a command with one line that names the value and the remedy, and with its exit status."""

import os
from pathlib import Path

import pytest

from tests.cli.terminal import SHOP, client, fastq

TWO = "from fastq import FastQ\none = FastQ('one')\ntwo = FastQ('two')\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "empty.py").write_text("")
    return tmp_path


def refuse(*arguments: str, folder: Path, status: int = 2, settings: dict[str, str] | None = None) -> str:
    ended = fastq(*arguments, folder=folder, settings=settings)
    lines = ended.stderr.splitlines()
    assert ended.returncode == status, ended.stderr
    assert [line for line in lines if "WAL" not in line] == lines[-1:], ended.stderr
    assert lines[-1].startswith("Error: ")
    assert ended.stdout == ""
    return lines[-1]


# -- apps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("worker",), ("status",)])
def test_an_app_module_that_does_not_exist(folder, command):
    line = refuse(*command, "-A", "shoop.tasks:app", folder=folder)
    assert "There is no module 'shoop'" in line
    assert str(folder) in line


def test_a_module_without_an_app(folder):
    assert "'empty' has no FastQ app, and declares no task" in refuse("worker", "-A", "empty", folder=folder)


def test_an_attribute_that_is_not_there(folder):
    line = refuse("worker", "-A", "shop:application", folder=folder)
    assert "shop:application is missing" in line
    assert "shop:app)" in line, "the remedy: the apps that there are"


def test_a_module_with_two_apps(folder):
    (folder / "two.py").write_text(TWO)
    assert "name one of two:one, two:two" in refuse("worker", "-A", "two", folder=folder)


def test_a_folder_with_two_app_modules(folder):
    (folder / "two.py").write_text(TWO)
    line = refuse("worker", folder=folder)
    assert "shop, two" in line
    assert "-A" in line


def test_a_folder_with_no_app_module(folder):
    (folder / "shop.py").unlink()
    assert "name one with -A package.module:app, or FASTQ_APP" in refuse("worker", folder=folder)


def test_a_folder_that_does_not_exist(folder):
    assert "'/nowhere' does not exist" in refuse("worker", "--folder", "/nowhere", folder=folder)


@pytest.mark.parametrize("path", ["shop tasks", "../shop.py"])
def test_an_app_path_that_is_none(folder, path):
    assert f"{path!r} is not an app path: it has the form package.module:app" in refuse(
        "worker", "-A", path, folder=folder
    )


# -- brokers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["worker", "status"])
def test_a_broker_of_an_unknown_scheme(folder, command):
    line = refuse(command, "--broker", "sqlit:///fastq.db", folder=folder)
    assert "'sqlit:///fastq.db'" in line
    assert "did you mean 'sqlite://'?" in line


def test_a_broker_url_that_is_none_does_not_show_its_password(folder):
    line = refuse("status", "--broker", "rediss2://joe:secret@example.com", folder=folder)
    assert "joe:***@example.com" in line


@pytest.mark.parametrize("command", [("worker",), ("call", "shop.add", "1")])
def test_a_broker_that_no_other_process_can_use(folder, command):
    assert "memory://x lives inside one process" in refuse(*command, "--broker", "memory://x", folder=folder)


def test_a_library_that_is_missing(folder):
    (folder / "shop.py").write_text(SHOP.replace('FastQ("shop")', 'FastQ("shop", serializer="yaml", accept=["yaml"])'))
    (folder / "yaml.py").write_text("raise ModuleNotFoundError(\"No module named 'yaml'\", name='yaml')")
    assert "pip install 'fastq-worker[yaml]'" in refuse("call", "-A", "shop", "shop.add", "1", folder=folder)


@pytest.mark.parametrize("command", ["worker", "status"])
def test_a_file_that_is_no_database(folder, command):
    (folder / "notes.txt").write_text("milk, eggs, bread and butter" * 50)
    line = refuse(command, "--broker", "sqlite:///notes.txt", folder=folder, status=4)
    assert f"{folder}/notes.txt" in line
    assert "not an SQLite database" in line
    assert (folder / "notes.txt").read_text().startswith("milk")


def test_a_database_in_a_folder_that_does_not_exist(folder):
    line = refuse("status", "--broker", "sqlite:///no/such/fastq.db", folder=folder, status=4)
    assert f"{folder}/no/such does not exist" in line


def test_a_database_that_is_a_folder(folder):
    assert "it is a directory" in refuse("status", "--broker", f"sqlite:///{folder}", folder=folder, status=4)


def test_a_folder_in_which_nothing_can_be_written(folder):
    if os.access("/proc", os.R_OK) and os.getuid() == 0:
        line = refuse("status", "--broker", "sqlite:////proc/fastq.db", folder=folder, status=4)
        assert "/proc/fastq.db" in line
        return
    closed = folder / "closed"
    closed.mkdir(0o500)
    line = refuse("status", "--broker", "sqlite:///closed/fastq.db", folder=folder, status=4)
    assert "may not write to" in line


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_database_that_may_not_be_read(folder):
    with client(folder) as app:
        app.send_task("shop.add")
    (folder / "fastq.db").chmod(0)
    assert "chmod or chown" in refuse("status", folder=folder, status=4)


# -- options and settings -------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["0", "-1"])
def test_a_concurrency_below_1(folder, number):
    line = refuse("worker", "--concurrency", number, folder=folder)
    assert f"{number}; it takes 1 or more" in line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--concurrency", "two"), "'two' is not a valid integer"),
        (("--queues", "a,b c"), "'b c' is not a queue name"),
        (("--queues", ""), "'' is not a queue name"),
        (("--lease", "0"), "lease_s is 0.0; it takes 0.1 to"),
        (("--grace", "nan"), "grace_s is nan; it takes 0 to"),
        (("--quues", "a"), "--queues"),
        (("extra",), "extra"),
    ],
)
def test_an_option_of_the_worker_that_is_wrong(folder, arguments, told):
    assert told in refuse("worker", *arguments, folder=folder)


@pytest.mark.parametrize("command", ["worker", "status"])
def test_a_setting_in_the_environment_that_there_is_not(folder, command):
    line = refuse(command, folder=folder, settings={"FASTQ_CONCURENCY": "2"})
    assert "FASTQ_CONCURENCY" in line
    assert "did you mean 'FASTQ_CONCURRENCY'?" in line


@pytest.mark.parametrize("command", ["worker", "status"])
def test_a_setting_in_the_environment_that_is_wrong(folder, command):
    line = refuse(command, folder=folder, settings={"FASTQ_CONCURRENCY": "many"})
    assert "concurrency is 'many'; it takes a whole number" in line


@pytest.mark.parametrize("command", ["worker", "status"])
def test_a_setting_in_the_project_file_that_there_is_not(folder, command):
    (folder / "pyproject.toml").write_text("[tool.fastq]\nbroke = 'sqlite:///fastq.db'\n")
    line = refuse(command, folder=folder)
    assert f"{folder}/pyproject.toml" in line
    assert "did you mean 'broker'?" in line


def test_a_task_id_that_is_none(folder):
    assert "'1234' is not a task id, which is a UUID" in refuse("result", "1234", folder=folder)


def test_a_task_name_that_is_none(folder):
    assert "is not a task name" in refuse("call", "shop add", folder=folder)


def test_a_queue_name_that_is_none(folder):
    assert "'a b' is not a queue name" in refuse("purge", "--yes", "a b", folder=folder)


def test_a_command_that_there_is_not(folder):
    assert "There is no command 'wroker': did you mean 'worker'?" in refuse("wroker", folder=folder)


def test_arguments_that_are_missing(folder):
    assert "Missing argument 'ID'" in refuse("result", folder=folder)
    line = refuse("inspect", folder=folder)
    assert line.startswith("Error: Missing argument 'QUESTION'. Choose from: active, reserved, scheduled, ")
