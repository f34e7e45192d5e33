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
    wanted = (PEERS / peer / "requirements.txt").read_text()
    digest = hashlib.sha256(f"{sys.version}\n{wanted}".encode()).hexdigest()[:12]
    folder = HOME / f"{peer}-{digest}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"Making an environment for {peer}: {folder}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(folder))
        requirements = str(PEERS / peer / "requirements.txt")
        _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements)
        (folder / "complete").touch()
    return python


def versions(python: Path | str) -> dict[str, str]:
    """Return the distributions of an environment, by name."""
    code = (
        "import importlib.metadata as m, json;"
        "print(json.dumps({d.metadata['Name'].lower(): d.version for d in m.distributions()}))"
    )
    found = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True)
    return dict(json.loads(found.stdout))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise OSError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
