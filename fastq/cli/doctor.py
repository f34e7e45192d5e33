"""``fastq doctor``: what this deployment really promises, what is weak about it, and what to do."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from tempfile import gettempdir
from typing import TYPE_CHECKING

import click

from fastq.cli import options
from fastq.errors import FastQError
from fastq.systems import mask
from fastq.worker.exiting import ExitCode
from fastq.worker.logs import escape

if TYPE_CHECKING:
    from fastq.app import FastQ
    from fastq.diagnosis import Diagnosis, Weakness

_FEW_FILES = 4096
_SKEW_S = 2.0


@click.command(
    short_help="Say what this deployment promises, and what is weak about it.",
    epilog="""\b
Exit status:
  0  nothing is weak, but for what is to be ignored
  1  something is
  2  a setting is wrong
  4  the broker or the result backend can't be used""",
)
@click.option("--ignore", "ignored", metavar="TEXT", multiple=True, help="Don't mind weaknesses that contain this.")
@options.as_json
@options.where
def command(
    ignored: tuple[str, ...], as_json: bool, app: str | None, folder: str, broker: str | None, backend: str | None
) -> int:
    """Look at the broker, the result backend, the shared state and this host, and say what is weak, with its remedy."""
    with options.client(app, folder, broker, backend) as client:
        found = client.broker.diagnose()
        results, state = _results(client), _state(client)
        weaknesses = [
            weakness
            for weakness in (*found.weaknesses, *_clock(found), *_settings(client), *_keys(client), *_host())
            if not any(text.lower() in weakness.what.lower() for text in ignored)
        ]
    if as_json:
        seen = {
            "broker": {"system": found.system, "promise": found.promise},
            "backend": results,
            "state": state,
            "host": _host_words(),
            "weaknesses": [weakness._asdict() for weakness in weaknesses],
        }
        click.echo(json.dumps(seen))
    else:
        _show(found, results, state, weaknesses)
    return ExitCode.FAILED if weaknesses else ExitCode.OK


def _show(found: Diagnosis, results: str, state: str, weaknesses: list[Weakness]) -> None:
    for name, words in (
        ("Broker", found.system), ("", found.promise), ("Results", results), ("State", state), ("Host", _host_words()),
    ):  # fmt: skip
        _say(click.style(f"{name:9}", bold=True), 9, words)
    click.echo()
    if not weaknesses:
        click.secho("Nothing is weak.", fg="green")
    for weakness in weaknesses:
        _say(click.style("! ", fg="yellow", bold=True), 2, weakness.what)
        _say(click.style("  → ", dim=True), 4, weakness.remedy)


def _say(begin: str, width: int, words: str) -> None:
    """Print words after what stands before them; at a terminal, further lines begin where the words do."""
    lines = [escape(words)]
    if sys.stdout.isatty():
        room = max(shutil.get_terminal_size().columns - width, 20)
        lines = textwrap.wrap(lines[0], room, break_long_words=False, break_on_hyphens=False)
    click.echo(begin + f"\n{'':{width}}".join(lines))


# -- what is looked at --------------------------------------------------------------------------------


def _results(client: FastQ) -> str:
    client.backend.load([bytes(15) + b"\1"])
    return f"{mask(client.settings.backend_url)}, kept for {client.settings.result_expires_s / 3600:g} h"


def _state(client: FastQ) -> str:
    """Return where shared state is kept; an app may do without."""
    try:
        client.state.get("doctor", ["nothing"])
    except FastQError as error:
        return f"none: {error}"
    return "at " + " or ".join(dict.fromkeys(mask(url) for url in client.settings.state_urls))


def _clock(found: Diagnosis) -> Iterator[Weakness]:
    from fastq.diagnosis import Weakness

    skew_s = found.clock_us / 1e6 - time.time() if found.clock_us else 0.0
    if abs(skew_s) > _SKEW_S:
        yield Weakness(
            f"this host's clock is {abs(skew_s):.1f} s {'behind' if skew_s > 0 else 'ahead of'} the broker's, so that "
            "countdowns begun here are off by as much",
            "let both follow the same time servers (chrony, systemd-timesyncd)",
        )


def _settings(client: FastQ) -> Iterator[Weakness]:
    from fastq.diagnosis import Weakness

    settings = client.settings
    if "pickle" in settings.accept and not (settings.require_signed and settings.require_encrypted):
        yield Weakness(
            "accept has pickle: whoever can write to the broker or the backend can run code in your workers",
            "take it out of accept, or have all that comes signed and encrypted: require_signed, require_encrypted",
        )
    if settings.ack == "early":
        yield Weakness("ack is early: a task whose process dies is lost", "leave it out, and mark single tasks")
    if settings.dead_letters_max:
        yield Weakness(
            f"dead_letters_max is {settings.dead_letters_max}: a flood of them pushes out the older ones, unseen",
            "leave it out, and let dead letters expire by their age",
        )


def _keys(client: FastQ) -> Iterator[Weakness]:
    """Look at who may read the files of keys."""
    from fastq.diagnosis import Weakness
    from fastq.keyring import file_of

    for name, said in (*client.settings.signing_keys, *client.settings.encryption_keys):
        path = file_of(said)
        if path is not None and path.is_file() and path.stat().st_mode & 0o077:
            yield Weakness(f"the file of the key {name!r} is open to others than its owner", f"chmod 600 {path}")


def _host() -> Iterator[Weakness]:
    from fastq import _speedups
    from fastq.diagnosis import Weakness

    if sys.platform != "win32":
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 <= soft < _FEW_FILES:
            yield Weakness(
                f"processes here may have {soft} files open", f"ulimit -n {_FEW_FILES * 2}, or LimitNOFILE= in the unit"
            )
    if sys.platform.startswith("linux") and not _has_nameless_memory():
        yield Weakness(
            f"memfd_create is not permitted here, so workers talk to their children through files in {gettempdir()}",
            "let the sandbox permit it, or set TMPDIR to a tmpfs",
        )
    if _speedups.body != "c" and sys.platform.startswith("linux"):
        yield Weakness(
            f"the Python bodies run here: {_speedups.reason}", "install a wheel, or a compiler and reinstall"
        )


def _has_nameless_memory() -> bool:
    """Whether shared memory can be had that has no name; it does not count towards the size of /dev/shm."""
    try:
        os.close(os.memfd_create("fastq-doctor"))
    except OSError:
        return False
    return True


def _host_words() -> str:
    from fastq.cli import bodies

    return f"{platform.node()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, {bodies().splitlines()[0]}"
