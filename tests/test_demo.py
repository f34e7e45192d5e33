"""The demo tells the truth: what its children counted is what one process counts."""

import hashlib
import io
import json
import keyword
import os
import subprocess
import sys
import sysconfig
import tokenize
from collections import Counter
from pathlib import Path

from tests.cli.terminal import environment
from tests.ledger import alive, eventually

PROGRAM = Path(__file__).parent.parent / "examples" / "standard_library.py"
LIBRARY = Path(sysconfig.get_path("stdlib"))


def run_demo(folder: Path, *arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, PROGRAM, *arguments], env=environment(TMPDIR=str(folder)), capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_demo_counts_what_a_single_process_counts_although_a_child_is_killed(tmp_path):
    figures = json.loads(run_demo(tmp_path, "--files", "60", "--json"))

    installed = {"site-packages", "dist-packages"}
    files = [path for path in LIBRARY.rglob("*.py") if not installed & set(path.relative_to(LIBRARY).parts)]
    sources = [path.read_bytes() for path in sorted(files, key=lambda path: path.relative_to(LIBRARY).as_posix())[:60]]
    tokens = [token for source in sources for token in tokenize.tokenize(io.BytesIO(source).readline)]
    names = Counter(each.string for each in tokens if each.type == tokenize.NAME and not keyword.iskeyword(each.string))
    digests = "".join(hashlib.sha256(source).hexdigest() for source in sources)

    assert figures["files"] == len(sources) == 60
    assert figures["lines"] == sum(len(source.splitlines()) for source in sources)
    assert figures["tokens"] == len(tokens)
    assert dict(map(tuple, figures["names"])).items() <= names.items()
    assert [count for _, count in figures["names"]] == [count for _, count in names.most_common(6)]
    assert figures["sha256"] == hashlib.sha256(digests.encode()).hexdigest()
    assert figures["lost"] == 0
    assert figures["killed"]
    assert not alive(figures["killed"])


def test_the_demo_ends_with_a_table_and_leaves_nothing_behind(tmp_path):
    table = run_demo(tmp_path, "--files", "20")
    assert "20 of 20 files read" in table
    assert "20 of 20 results, none lost" in table
    assert "was killed by SIGKILL" in table
    assert list(tmp_path.iterdir()) == []
    eventually(lambda: not working_in(tmp_path), 5)


def working_in(folder: Path) -> list[str]:
    """Return the processes whose current folder is below one."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if os.readlink(link).startswith(f"{folder}/"):
                found.append(link.parent.name)
        except OSError:  # it has ended, or is another's
            continue
    return found
