"""``fastq inspect``: ask workers what they have in hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from fastq.cli import options
from fastq.cli.answers import check_answered, print_json, whom
from fastq.cli.tables import duration, print_table, printing
from fastq.worker.logs import escape, escape_lines

if TYPE_CHECKING:
    from rich.console import Console

_QUESTIONS = ("active", "reserved", "scheduled", "registered", "stats", "stacks", "ping")


@click.command(short_help="Ask workers what they have in hand.")
@click.argument("question", type=click.Choice(_QUESTIONS), metavar="QUESTION")
@whom
@options.as_json
@options.where
def command(
    question: str, destination: tuple[str, ...], timeout: float, as_json: bool,
    app: str | None, folder: str, broker: str | None, backend: str | None,
) -> int:  # fmt: skip
    """Ask workers, whose parents answer even while all their children hang.

    \b
    active      the tasks that run
    reserved    the tasks that were fetched and have not begun
    scheduled   how many delayed messages wait at the broker, by queue
    registered  the tasks that a worker knows
    stats       each worker in numbers
    stacks      where the threads of a worker and of its children are
    ping        who is there
    """
    with options.client(app, folder, broker, backend) as client:
        replies = getattr(client.control.inspect(destination or None, timeout), question)()
        if as_json:
            print_json(replies)
        check_answered(client, replies, timeout)
    if not as_json:
        with printing() as console:
            _SHOWN[question](console, dict(sorted(replies.items())))
    return 0


def _show_tasks(console: Console, replies: Mapping[str, list[dict[str, Any]]]) -> None:
    for worker, tasks in replies.items():
        print_table(
            console, worker, ("task", "id", "queue", "pid", "for"), "lLlRR",
            [(each["task"], each["id"], each["queue"], str(each["pid"] or ""),
              duration(each["runs_s"]) if each["pid"] else "") for each in tasks],
        )  # fmt: skip


def _show_scheduled(console: Console, replies: Mapping[str, dict[str, int]]) -> None:
    for worker, queues in replies.items():
        print_table(console, worker, ("queue", "delayed"), "lr", [(name, f"{n:,}") for name, n in queues.items()])


def _show_registered(console: Console, replies: Mapping[str, list[str]]) -> None:
    for worker, tasks in replies.items():
        print_table(console, worker, ("task",), "l", [(task,) for task in tasks])


def _show_stats(console: Console, replies: Mapping[str, dict[str, Any]]) -> None:
    for worker, stats in replies.items():
        paused = ", ".join(stats["paused"]) or "none"
        print_table(
            console, worker, ("what", "value"), "ll",
            [("app", stats["app"]), ("version", stats["version"]), ("host, pid", f"{stats['host']}, {stats['pid']}"),
             ("up for", duration(stats["uptime_s"])), ("children", f"{stats['children']:,}"),
             ("queues", ", ".join(stats["queues"])), ("paused", paused), ("running", f"{stats['running']:,}"),
             ("reserved", f"{stats['reserved']:,}"), ("processed", f"{stats['processed']:,}"),
             ("revocations", f"{stats['revoked']:,}")],
        )  # fmt: skip


def _show_stacks(console: Console, replies: Mapping[str, dict[str, str]]) -> None:
    for worker, processes in replies.items():
        for process, stacks in processes.items():
            text = f"{escape(worker)}, {escape(process)}:\n{escape_lines(stacks)}\n"
            console.print(text, soft_wrap=True, markup=False)


def _show_ping(console: Console, replies: Mapping[str, str]) -> None:
    for worker, answer in replies.items():
        console.print(f"{escape(worker)}: {escape(answer)}", soft_wrap=True)


_SHOWN: dict[str, Callable[[Console, Mapping[str, Any]], None]] = {
    "active": _show_tasks,
    "reserved": _show_tasks,
    "scheduled": _show_scheduled,
    "registered": _show_registered,
    "stats": _show_stats,
    "stacks": _show_stacks,
    "ping": _show_ping,
}
