import json
import os
import pty
import subprocess
import uuid
from pathlib import Path

import pytest

import fastq as package
from tests.cli.terminal import SHOP, client, command, environment, fastq, queued, worker


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory):
    """A folder with a worker that stays for all tests of this module."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "shop.py").write_text(SHOP)
    with worker("-Q", "default,mail", folder=folder):
        yield folder


def send(folder: Path, task: str, *args: object, queue: str | None = None) -> str:
    with client(folder) as app:
        return app.send_task(task, args, queue=queue).id


# -- call -----------------------------------------------------------------------------------------


def test_a_call_prints_the_id_of_the_task_and_shows_what_was_understood(folder):
    ended = fastq(
        "call", "shop.say", "4", "four", '"4"', "[1,2]", "null", "NaN", "-k", "a=1", "-k", "b:=1", folder=folder
    )
    assert ended.returncode == 0
    assert str(uuid.UUID(ended.stdout.strip())) == ended.stdout.strip()
    assert ended.stderr == (
        'Sent shop.say(4, "four", "4", [1, 2], null, "NaN", a="1", b=1) to default at sqlite:///fastq.db\n'
    )


def test_arguments_arrive_as_they_were_understood(served):
    words = ("-k", 'n:={"m": [true]}', "-k", "t=x=y", "--", "-4", "1e3", "00", "ü")
    ended = fastq("call", "shop.say", "--timeout", "20", *words, folder=served)
    assert json.loads(ended.stdout) == [[-4, 1000.0, "00", "ü"], {"n": {"m": [True]}, "t": "x=y"}]


def test_a_call_that_waits_shows_the_traceback_of_a_failure_and_exits_with_1(served):
    ended = fastq("call", "shop.fail", "no luck", "--wait", folder=served)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "shop.py" in ended.stderr
    assert ended.stderr.splitlines()[-1].endswith("ended with ValueError: no luck")


def test_a_call_as_json_is_one_object(served):
    done = json.loads(fastq("call", "shop.add", "1", "2", "--wait", "--json", folder=served).stdout)
    failed = json.loads(fastq("call", "shop.fail", "--wait", "--json", folder=served).stdout)
    sent = json.loads(fastq("call", "shop.add", "1", "--json", folder=served).stdout)
    assert (done["state"], done["result"]) == ("SUCCESS", 3)
    assert (failed["state"], failed["error"]["message"]) == ("FAILURE", "no luck")
    assert sent["state"] == "PENDING"


def test_waiting_has_an_end(folder):
    ended = fastq("call", "shop.add", "1", "--timeout", "0.1", folder=folder)
    assert ended.returncode == 5
    assert "has not ended within 0.1 s" in ended.stderr


def test_with_the_app_the_options_of_the_task_hold(served):
    ended = fastq("call", "-A", "shop:app", "shop.post", "--timeout", "20", folder=served)
    assert ended.stdout == '"sent"\n'
    assert "to mail at" in ended.stderr


def test_with_the_app_a_wrong_name_or_wrong_arguments_are_not_sent(folder):
    unknown = fastq("call", "-A", "shop", "shop.ad", "1", folder=folder)
    wrong = fastq("call", "-A", "shop", "shop.add", "1", "2", "3", folder=folder)
    assert (unknown.returncode, wrong.returncode) == (2, 2)
    assert "did you mean 'shop.add'?" in unknown.stderr
    assert "shop.add(x, y=0): too many positional arguments" in wrong.stderr
    assert not (folder / "fastq.db").exists()


def test_waiting_for_a_result_that_is_ignored_is_refused(folder):
    ended = fastq("call", "-A", "shop", "shop.forget", "--wait", folder=folder)
    assert ended.returncode == 2
    assert "ignore_result" in ended.stderr


def test_a_countdown_delays_a_call(folder):
    fastq("call", "shop.add", "1", "--countdown", "600", "--queue", "slow", folder=folder)
    (queue,) = queued(folder).values()
    assert (queue.name, queue.ready, queue.delayed) == ("slow", 0, 1)


@pytest.mark.parametrize("keyword", ["x", "x:=four"])
def test_a_keyword_argument_has_one_of_two_forms(folder, keyword):
    ended = fastq("call", "shop.say", "-k", keyword, folder=folder)
    assert ended.returncode == 2
    assert ended.stderr.startswith("Error: ")
    assert "JSON" in ended.stderr or "k=text or k:=json" in ended.stderr


def test_a_result_that_is_fit_for_no_terminal_is_escaped(served):
    ended = fastq("call", "shop.add", '"\\u001b[31m"', '"\\u202e"', "--timeout", "20", folder=served)
    assert ended.stdout.isascii()
    assert json.loads(ended.stdout) == "\x1b[31m\u202e"


# -- result ---------------------------------------------------------------------------------------


def test_a_result_can_be_asked_for_later(served):
    id = send(served, "shop.add", 4, 4)
    waited = fastq("result", id, "--wait", folder=served)
    looked = fastq("result", id, folder=served)
    assert (waited.returncode, waited.stdout) == (looked.returncode, looked.stdout) == (0, "8\n")
    assert looked.stderr.startswith("SUCCESS, 2")


def test_the_result_of_a_task_that_failed_exits_with_1(served):
    id = send(served, "shop.fail")
    ended = fastq("result", id, "--timeout", "20", folder=served)
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert json.loads(fastq("result", id, "--json", folder=served).stdout)["error"]["type"].endswith("ValueError")


def test_a_task_is_followed_by_lines_in_a_pipe(served):
    id = send(served, "shop.count", 3, str(served / "gate-of-lines"))
    with subprocess.Popen(
        command("result", id, "--follow"), cwd=served, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any(line == "3/3 counting\\x1b[31m\n" for line in lines)
        (served / "gate-of-lines").touch()
        rest, _ = process.communicate(timeout=20)
    assert (rest, process.returncode) == ("3\n", 0)


def test_a_task_is_followed_by_a_bar_on_a_terminal(served):
    (served / "gate-of-bars").touch()
    id = send(served, "shop.count", 3, str(served / "gate-of-bars"))
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command("result", id, "--follow"), cwd=served, env=environment(TERM="xterm"), stderr=theirs,
        stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        value, _ = process.communicate(timeout=20)
    os.close(theirs)
    shown = os.read(ours, 65_536).decode()
    os.close(ours)
    assert value == b"3\n"
    assert "3/3" in shown
    assert "100%" in shown
    assert "counting\\x1b[31m" in shown


def test_a_task_that_does_not_end_is_followed_until_the_timeout(folder):
    id = send(folder, "shop.add", 1)
    ended = fastq("result", id, "--follow", "--timeout", "0.1", folder=folder)
    assert ended.returncode == 5
    assert "has not ended within 0.1 s" in ended.stderr


def test_secret_arguments_of_a_call_are_not_shown(folder):
    ended = fastq("call", "shop.log_in", "me", "sesame", "-A", "shop", folder=folder)
    assert ended.returncode == 0
    assert "shop.log_in('me', '***')" in ended.stderr


def test_the_result_of_a_task_that_nobody_has_heard_of_is_pending_and_exits_with_5(folder):
    id = "0199f3a2-5d4e-7c31-8f6b-2a9d0c1e4b57"
    ended = fastq("result", id, folder=folder)
    assert (ended.returncode, ended.stdout) == (5, "")
    assert "PENDING" in ended.stderr
    assert json.loads(fastq("result", id, "--json", folder=folder).stdout) == {"id": id, "state": "PENDING"}


# -- status and purge -----------------------------------------------------------------------------


def test_status_shows_queues_and_workers(served):
    send(served, "shop.add", queue="unserved")
    seen = json.loads(fastq("status", "--json", folder=served).stdout)
    (about,) = [worker["about"] for worker in seen["workers"]]
    assert seen["broker"] == "sqlite:///fastq.db"
    assert {queue["name"]: queue["ready"] for queue in seen["queues"]}["unserved"] == 1
    assert (about["app"], about["queues"], about["children"]) == ("shop", "default,mail", "2")
    shown = fastq("status", folder=served).stdout
    rows = [line.split() for line in shown.splitlines()]
    assert ["unserved", "1", "0", "0", "0"] in [row[:5] for row in rows]
    assert about["name"] == f"fastq@{about['host']}:{about['pid']}"
    assert [about["name"], "shop", "2", "default,", "mail"] in [row[:5] for row in rows]
    assert all(line == line.rstrip() for line in shown.splitlines())


def test_status_of_nothing_says_so(folder):
    assert fastq("status", folder=folder).stdout.splitlines()[2:] == ["Queues: none", "", "Workers: none"]


def test_purge_deletes_what_waits_and_says_how_much(folder):
    for queue in ("default", "default", "mail"):
        send(folder, "shop.add", queue=queue)
    ended = fastq("purge", "default", "mail", "nothing", "--yes", folder=folder)
    assert ended.returncode == 0
    assert ended.stdout.splitlines() == [
        "default: 2 messages deleted", "mail: 1 message deleted", "nothing: 0 messages deleted"
    ]  # fmt: skip


def test_purge_empties_the_shares_of_a_fair_queue_with_it(folder):
    for queue in ("work", "work:fair-0", "work:fair-2"):
        send(folder, "shop.add", queue=queue)
    ended = fastq("purge", "work", "--yes", folder=folder, settings={"FASTQ_FAIR_QUEUES": "work=3"})
    assert ended.stdout.splitlines() == ["work: 3 messages deleted"], ended.stderr


def test_purge_deletes_nothing_where_nobody_can_be_asked(folder):
    send(folder, "shop.add")
    ended = fastq("purge", "default", folder=folder)
    assert ended.returncode == 2
    assert "add --yes" in ended.stderr
    assert queued(folder)["default"].ready == 1


@pytest.mark.parametrize(("answer", "left"), [("n", 1), ("y", 0)])
def test_purge_asks_at_a_terminal(folder, answer, left):
    send(folder, "shop.add")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command("purge", "default"), cwd=folder, env=environment(), stdin=theirs, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        os.write(ours, f"{answer}\n".encode())
        _, asked = process.communicate(timeout=20)
    os.close(theirs)
    os.close(ours)
    assert "Delete what waits for good (1 in default, at sqlite:///fastq.db)?" in asked.decode()
    assert process.returncode == (130 if answer == "n" else 0)
    assert sum(queue.ready for queue in queued(folder).values()) == left


def test_settings_can_come_from_a_module_in_the_folder(folder, tmp_path_factory):
    (folder / "shop_settings.py").write_text("broker = 'sqlite:///elsewhere.db'\n")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    module = {"FASTQ_CONFIG": "shop_settings"}
    assert "elsewhere.db" in fastq("status", "--folder", str(folder), folder=elsewhere, settings=module).stdout


# -- the command itself ---------------------------------------------------------------------------


def test_the_version_says_which_bodies_run_and_why(folder):
    shown = fastq("--version", folder=folder, settings={"FASTQ_SPEEDUPS": "0"}).stdout
    assert shown.startswith(f"fastq {package.__version__} (")
    assert shown.endswith("Python bodies: FASTQ_SPEEDUPS=0)\n")


@pytest.mark.parametrize(("group", "first"), [("control", "add-consumer"), ("dead", "drop")])
def test_a_group_of_commands_shows_its_help(folder, group, first):
    shown = fastq(group, folder=folder)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == fastq(group, "--help", folder=folder).stdout
    assert f"  {first}" in shown.stdout


def test_help_lists_the_commands_and_loads_no_library_of_a_broker(folder):
    assert "worker" in fastq("--help", folder=folder).stdout
    assert fastq(folder=folder).returncode == 0
    probe = "import sys; from fastq.cli import main; main(['worker', '--help']); print(*sys.modules, file=sys.stderr)"
    ended = subprocess.run(
        [command()[0], "-c", probe], env=environment(), capture_output=True, text=True, timeout=20, check=True
    )
    assert not {"sqlalchemy", "rich"} & set(ended.stderr.split())


def test_commands_for_clients_load_nothing_of_the_worker_s_engine(folder):
    probe = "import sys; from fastq.cli import main; main(['status']); print(*sys.modules, file=sys.stderr)"
    ended = subprocess.run(
        [command()[0], "-c", probe],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert not {"fastq.worker.worker", "fastq.worker.dispatcher", "fastq.pools.prefork"} & set(ended.stderr.split())


def test_the_exit_statuses_are_in_the_help_of_the_worker(folder):
    shown = fastq("worker", "--help", folder=folder).stdout
    assert "3  the app can't be imported" in shown


def test_a_reader_that_goes_away_is_no_error_of_ours(folder):
    with subprocess.Popen(
        command("status"), cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
