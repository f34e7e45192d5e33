import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from fastq import FastQ
from tests.cli.terminal import SHOP, client, command, environment, fastq, queued, worker
from tests.ledger import alive, children_of, eventually


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


def send(folder: Path, task: str, *args: object, queue: str | None = None) -> None:
    with client(folder) as app:
        app.send_task(task, args, queue=queue)


def outcome(folder: Path, task: str, *args: object) -> object:
    with client(folder) as app:
        return app.send_task(task, args).get(20)


# -- starting -------------------------------------------------------------------------------------


def test_a_worker_finds_the_one_app_of_its_folder_and_runs_its_tasks(folder):
    with worker(folder=folder):
        assert outcome(folder, "shop.add", 4, 4) == 8


def test_a_worker_takes_its_app_from_the_environment(folder):
    (folder / "other.py").write_text(SHOP)
    with worker(folder=folder, settings={"FASTQ_APP": "other:app"}) as started:
        assert "app shop" in started.log
        assert outcome(folder, "other.add", 4) == 4


def test_a_worker_finds_modules_in_the_folder_that_is_named(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with worker("--folder", str(folder), "-A", "shop:app", folder=elsewhere):
        assert outcome(elsewhere, "shop.add", 4) == 4


def test_in_a_pipe_a_worker_says_what_it_is_on_one_line_and_then_that_it_is_ready(folder):
    with worker(folder=folder) as started:
        said = [line for line in started.log.splitlines() if "WAL" not in line]
    assert re.search(
        r"INFO fastq.worker: fastq \S+ worker: app shop, broker sqlite:///fastq.db, .* queues default, "
        r"pool prefork × 2, 9 tasks, (compiled|Python) bodies: .",
        said[0],
    )
    assert said[1].endswith("INFO fastq.worker: Ready")


def test_at_a_terminal_a_worker_shows_a_panel(folder):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("worker", "-c", "1", "-Q", "default,mail"), cwd=folder, env=environment(TERM="xterm", COLUMNS="90"),
        stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # nobody has the terminal open any more
        while True:
            shown += os.read(ours, 4096)
            if b"Ready" in shown:
                process.terminate()  # more than once, maybe, which changes nothing
    os.close(ours)
    assert process.wait(40) == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.decode())
    rows = dict(re.findall(r"│ (\w+) +(.+?) *│", text))
    assert rows["app"] == "shop"
    assert rows["queues"] == "default, mail"
    assert rows["pool"] == "prefork × 1"
    assert rows["tasks"].startswith("shop.add, shop.count, shop.fail")
    assert all(len(line) <= 90 for line in text.splitlines() if "│" in line)


def test_the_parent_never_imports_the_app(folder):
    (folder / "shop.py").write_text(f"{SHOP}\n(open('importers', 'a')).write(f'{{os.getppid()}} ')\n")
    with worker(folder=folder) as started:
        assert (folder / "importers").read_text().split() == [str(started.pid)], "only a child of the parent imports it"


@pytest.mark.skipif(sys.platform != "linux", reason="reads titles from /proc")
def test_process_titles_say_who_is_who(folder):
    with worker(folder=folder) as started:
        title = Path(f"/proc/{started.pid}/cmdline").read_bytes().rstrip(b"\0").decode()
        assert title == "fastq:shop:worker with 2 children"
        assert len(started.children()) == 2


def test_a_worker_serves_the_queues_it_is_told_to(folder):
    send(folder, "shop.post", queue="mail")
    send(folder, "shop.add", 1)
    with worker("-Q", "mail,other", folder=folder):
        eventually(lambda: "mail" not in queued(folder), 20)
        assert queued(folder)["default"].ready == 1


def test_a_broker_that_is_named_on_the_command_line_is_the_broker_of_the_tasks_too(folder):
    with (
        worker("--broker", "sqlite:///elsewhere.db", folder=folder),
        FastQ("client", broker=f"sqlite:///{folder}/elsewhere.db") as app,
    ):
        inner = app.send_task("shop.relay", [4]).get(20)
        assert app.result(inner).get(20) == 5
    assert not (folder / "fastq.db").exists()


# -- logs -----------------------------------------------------------------------------------------


def test_what_a_task_says_can_not_forge_log_lines_or_steer_a_terminal(folder):
    forged = "2026-01-01 00:00:00.000 INFO fastq.worker: Ready for anything"
    with worker(folder=folder) as started:
        send(folder, "shop.fail", f"\x1b]0;title\x07\n{forged}\r\u202e")
        eventually(lambda: "Ready for anything" in started.log, 10)
        log = started.log
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", log)
    assert not any(line.startswith(forged) for line in log.splitlines())


def test_json_logs_are_an_object_a_line_of_all_its_processes(folder):
    with worker("--json-logs", folder=folder) as started:
        send(folder, "shop.fail")
        eventually(lambda: "no luck" in started.log, 10)
        entries = [json.loads(line) for line in started.log.splitlines()]
    assert all(entry.keys() >= {"time", "level", "logger", "pid", "message"} for entry in entries)
    assert {entry["pid"] for entry in entries} > {started.pid}


def test_json_logs_tell_of_an_app_that_can_not_be_imported_too(folder):
    (folder / "broken.py").write_text("1 / 0")
    ended = fastq("worker", "-A", "broken", "--json-logs", folder=folder)
    (entry,) = map(json.loads, ended.stderr.splitlines())
    assert entry["level"] == "CRITICAL"
    assert "ZeroDivisionError" in entry["message"]
    assert "1 / 0" in entry["exception"]
    assert ended.returncode == 3


def test_a_log_level_leaves_out_what_is_below_it(folder):
    with worker("-l", "info", folder=folder) as started:
        pass
    ended = fastq("worker", "-l", "LOUD", folder=folder)
    assert ended.returncode == 2
    assert "DEBUG" not in started.log
    assert "'LOUD' is not one of" in ended.stderr


# -- stopping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_worker_that_is_asked_to_stop_exits_with_0(folder, number):
    with worker(folder=folder) as started:
        started.process.send_signal(number)
        assert started.process.wait(20) == 0
        assert started.log.splitlines()[-1].endswith("Stopped; 0 attempts ended here")


def test_a_task_that_outlasts_the_grace_period_goes_back_and_the_exit_status_is_5(folder):
    """Row 5."""
    with worker("--grace", "0.1", folder=folder) as started:
        send(folder, "shop.nap", 60)
        eventually(lambda: queued(folder)["default"].leased == 1, 10)
        assert started.stop() == 5
    assert queued(folder)["default"].ready == 1


def test_a_second_interrupt_stops_a_worker_at_once(folder):
    with worker("--grace", "60", folder=folder) as started:
        send(folder, "shop.nap", 60)
        eventually(lambda: queued(folder)["default"].leased == 1, 10)
        os.killpg(started.pid, signal.SIGINT)  # as a terminal does for ^C
        eventually(lambda: "Stopping" in started.log, 10)
        os.killpg(started.pid, signal.SIGINT)
        assert started.process.wait(10) == 5
    assert queued(folder)["default"].ready == 1


def test_a_worker_that_hangs_while_stopping_leaves_with_5():
    """Row 25."""
    ended = subprocess.run(
        [sys.executable, "-c", "from fastq.cli.worker import _give_up; _give_up()"],
        env=environment(), capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert ended.returncode == 5
    assert "Stopping hangs" in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_asked_to_stop_while_its_app_is_imported_leaves_nothing_behind(folder, number):
    (folder / "slow.py").write_text("open('importing', 'w').close()\nimport time\ntime.sleep(600)")
    with subprocess.Popen(
        command("worker", "-A", "slow"), cwd=folder, env=environment(), stderr=subprocess.PIPE
    ) as process:
        eventually((folder / "importing").exists)
        (template,) = children_of(process.pid)
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0
    assert b"Stopped before it was ready" in said
    assert not alive(template)


def test_a_worker_that_stops_before_it_is_ready_may_be_asked_again_and_again(folder):
    (folder / "slow.py").write_text("open('importing', 'w').close()\nimport time\ntime.sleep(600)")
    process = subprocess.Popen(
        command("worker", "-A", "slow:app"), cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    eventually((folder / "importing").exists)
    process.send_signal(signal.SIGINT)
    assert any("Stopped before it was ready" in line for line in iter(process.stderr.readline, ""))
    with process:
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
        assert (process.returncode, process.stderr.read()) == (0, "")


def test_an_app_that_raises_on_import_ends_the_worker_with_its_traceback_and_3(folder):
    (folder / "broken.py").write_text(
        "from fastq import FastQ\napp = FastQ('x')\nraise RuntimeError('no \\x1b[31m config')"
    )
    ended = fastq("worker", "-A", "broken:app", folder=folder)
    *trace, line = ended.stderr.splitlines()
    assert ended.returncode == 3
    assert trace[0].startswith("Traceback")
    assert any("broken.py" in each for each in trace)
    assert not any("importlib" in each or "discovery.py" in each for each in trace)
    assert line.startswith("Error: The app module 'broken' raised on import: RuntimeError: no \\x1b[31m config")
    assert "\x1b" not in ended.stderr


def test_an_app_whose_import_ends_the_process_ends_the_worker_too(folder):
    (folder / "broken.py").write_text("import os\nos._exit(7)")
    ended = fastq("worker", "-A", "broken:app", folder=folder)
    assert ended.returncode == 3
    assert ended.stderr == "Error: The process died while it imported the app: exited with status 7\n"


def test_a_worker_that_drains_stops_by_itself_when_nothing_is_due(folder):
    with client(folder) as app:
        results = [app.send_task("shop.add", [n]) for n in range(20)]
        app.send_task("shop.add", [1], countdown=600)
        ended = fastq("worker", "--drain", folder=folder)
        assert ended.returncode == 0, ended.stderr
        assert [result.get(1) for result in results] == list(range(20))
    assert "The queues hold nothing that is due" in ended.stderr
    assert queued(folder)["default"].delayed == 1


def test_a_worker_of_which_a_part_hangs_says_where_and_ends_with_6(folder):
    hang = {"FASTQ_WATCHDOG_S": "0.5", "FASTQ_FAILPOINTS": "P10=sleep(600):parent"}
    with worker(folder=folder, settings=hang) as started:
        send(folder, "shop.add", 1)
        assert started.process.wait(60) == 6
        log = started.log
    assert "The worker may be stuck: a turn of the settler does not end" in log
    assert "failpoints.py" in log  # where it hangs
    assert queued(folder)["default"].ready == 1


# -- looking into it --------------------------------------------------------------------------------


def test_a_worker_that_gets_sigusr1_logs_where_all_its_threads_are_and_works_on(folder):
    with worker("-n", "bakery", folder=folder) as started:
        send(folder, "shop.nap", 60)
        eventually(lambda: started.process.send_signal(signal.SIGUSR1) or "in nap" in started.log)
        assert "Stacks of worker" in started.log
        assert "Stacks of child" in started.log
        assert "Thread fastq-fetcher" in started.log
        shown = fastq("inspect", "stacks", "--destination", "bakery", "--timeout", "20", folder=folder)
        assert shown.returncode == 0, shown.stderr
        assert re.search(r"^bakery, child \d \(pid \d+\):\n(.*\n)+?.* in nap$", shown.stdout, re.MULTILINE)
        assert outcome(folder, "shop.add", 4) == 4
        started.process.send_signal(signal.SIGINT)
        started.process.send_signal(signal.SIGQUIT)
        assert started.process.wait(40) == 5


# -- as process 1 -----------------------------------------------------------------------------------

ORPHANS = """
import subprocess
from fastq import FastQ
app = FastQ("shop")

@app.task
def leave_orphans(number):
    for _ in range(number):
        subprocess.run(["sh", "-c", "setsid sleep 0.05 &"], check=True)
"""


def test_as_process_1_a_worker_leaves_no_zombies_and_obeys_signals(folder):
    """Row 16."""
    alone = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a namespace of processes")
    (folder / "shop.py").write_text(ORPHANS)
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(
            [*alone, *command("worker", "-A", "shop", "-c", "1")], cwd=folder, env=environment(),
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        eventually(lambda: "Ready" in (folder / "log").read_text())
        (parent,) = children_of(process.pid)
        outcome(folder, "shop.leave_orphans", 20)
        eventually(lambda: len(family_of(parent)) == 3)  # itself, the template, a child; no zombie is left
        os.kill(parent, signal.SIGTERM)
        assert process.wait(40) == 0
    finally:
        process.kill()
        process.wait()


def family_of(pid: int) -> list[int]:
    """Return a process and all that descend from it, zombies included."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text("latin-1").rpartition(")")[2].split()[1])
    family = [pid]
    for each in family:
        family += [child for child, parent in parents.items() if parent == each]
    return family
