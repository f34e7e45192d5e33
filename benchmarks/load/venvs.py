"""A virtual environment for each peer, made when it is first needed, with the versions that it pins."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

PEERS = Path(__file__).parents[1] / "peers"
HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastq-benchmarks"


def python_of(peer: str) -> Path:
    """Return the interpreter of a peer's environment; make the environment where there is none. Raises OSError."""
    folder = PEERS / peer
    sources = [folder / "requirements.txt", *sorted(folder.glob("*.json")), *sorted(folder.glob("*.mjs"))]
    wanted = "".join(source.read_text() for source in sources)
    digest = hashlib.sha256(f"{sys.version}\n{wanted}".encode()).hexdigest()[:12]
    folder = HOME / f"{peer}-{digest}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"Making an environment for {peer}: {folder}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(folder))
        requirements = str(PEERS / peer / "requirements.txt")
        _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements)
        if (PEERS / peer / "package.json").exists():
            _install_for_node(PEERS / peer, folder / "node")
        (folder / "complete").touch()
    return python


def _install_for_node(source: Path, folder: Path) -> None:
    """Copy a peer's programs beside the modules that they import."""
    folder.mkdir()
    for file in (source / "package.json", *source.glob("*.mjs")):
        shutil.copy(file, folder)
    _run("npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder))


def versions(python: Path | str) -> dict[str, str]:
    """Return the distributions of an environment, by name."""
    code = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({d.metadata['Name'].lower(): d.version for d in m.distributions()}))"
    )
    found = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True)
    return dict(json.loads(found.stdout))


def foreign_version(peer: str) -> str:
    """Return the version of a peer that is not written in Python, and of what it runs on; nothing for one that is."""
    if (PEERS / peer / "package.json").exists():
        wanted = json.loads((PEERS / peer / "package.json").read_text())["dependencies"]
        return f"{wanted[peer]} (Node.js {_said('node', '--version')})"
    if (PEERS / peer / "jobs.rb").exists():
        return f"{_said('sidekiq', '--version').removeprefix('Sidekiq ')} ({_said('ruby', '--version')[:10]})"
    return ""


def _said(*command: str) -> str:
    """Return what a command prints. Raises OSError for one that is not there."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()
    except FileNotFoundError as error:
        raise OSError(f"{command[0]} is not in PATH, which a peer needs: leave that peer out, or install it") from error


def _run(*command: str) -> None:
    if shutil.which(command[0]) is None:
        raise OSError(f"{command[0]} is not in PATH")
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise OSError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
