"""Finding the app that a path names: ``shop.tasks:app``, ``shop.tasks``, or the one module that holds one.

This imports the user's code, so only processes that are meant to hold it may call it.
"""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType

from .app import FastQ, default_app, has_default_app
from .errors import AppImportError, AppNotFound, ConfigurationError, SerializerRefused, UnknownSerializer

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*(\.[^\W\d]\w*)*)?")
_USES_FASTQ = re.compile(r"^\s*(from|import)\s+fastq\b", re.MULTILINE)
_HOLDS_APP = re.compile(r"\bFastQ\(")
_HOLDS_TASKS = re.compile(r"^@(fastq\.)?task\b", re.MULTILINE)


def find_app(path: str | None, folder: str = ".") -> FastQ:
    """Return the app that `path` names, looking for its module in `folder` first.

    A module without an app stands for the default app, if it declares tasks in it. With no path, the one
    module in `folder`, or in a package there, that holds an app is taken.
    Raises AppNotFound, ConfigurationError for a wrong setting or declaration, and AppImportError with the
    traceback when the user's code raises anything else.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise AppNotFound(f"The folder {str(root)!r} does not exist")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    if path is None:
        path = guess_module(root)
    if not _PATH.fullmatch(path):
        raise AppNotFound(f"{path!r} is not an app path: it has the form package.module:app, or package.module")
    module_name, _, attribute = path.partition(":")
    module = _import(module_name, root)
    return _named(module, attribute) if attribute else _only_one(module)


def guess_module(root: Path) -> str:
    """Return the name of the one module below a folder that holds an app, without importing any."""
    files = [
        *sorted(root.glob("*.py")),
        *(f for f in sorted(root.glob("*/*.py")) if (f.parent / "__init__.py").exists()),
    ]
    texts = {_module_name(file, root): text for file in files if _USES_FASTQ.search(text := _text(file))}
    found = [name for name, text in texts.items() if _HOLDS_APP.search(text)]
    found = found or [name for name, text in texts.items() if _HOLDS_TASKS.search(text)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise AppNotFound(
            f"No module in {str(root)!r} holds a fastq app: name one with -A package.module:app, or FASTQ_APP"
        )
    raise AppNotFound(
        f"Several modules in {str(root)!r} hold an app ({', '.join(found)}): name one with -A, or FASTQ_APP"
    )


def _import(name: str, root: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise AppNotFound(
                f"There is no module {error.name!r} (looked in {str(root)!r} and the Python path)"
            ) from None
        raise _import_error(name, error) from error
    except (ConfigurationError, UnknownSerializer, SerializerRefused) as error:
        raise ConfigurationError(f"The app module {name!r} can't be used: {error}") from error
    except Exception as error:
        raise _import_error(name, error) from error
    except SystemExit as error:
        raise AppImportError(
            f"The app module {name!r} ended the process while it was imported: SystemExit({error})"
        ) from error


def _import_error(name: str, error: BaseException) -> AppImportError:
    trace = error.__traceback__
    while trace is not None and (
        "importlib" in trace.tb_frame.f_code.co_filename or trace.tb_frame.f_code.co_filename == __file__
    ):
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace))
    return AppImportError(f"The app module {name!r} raised on import: {type(error).__name__}: {error}", text)


def _named(module: ModuleType, attribute: str) -> FastQ:
    found: object = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, FastQ):
        there = ", ".join(f"{module.__name__}:{name}" for name in _apps(module)) or "none"
        raise AppNotFound(f"{module.__name__}:{attribute} is {_kind(found)}, not a FastQ app (apps there: {there})")
    return found


def _only_one(module: ModuleType) -> FastQ:
    apps = _apps(module)
    if len({id(app) for app in apps.values()}) > 1:
        names = ", ".join(f"{module.__name__}:{name}" for name in apps)
        raise AppNotFound(f"The module {module.__name__!r} has several apps: name one of {names}")
    if apps:
        return next(iter(apps.values()))
    if has_default_app():
        return default_app()
    raise AppNotFound(f"The module {module.__name__!r} has no FastQ app, and declares no task")


def _apps(module: ModuleType) -> dict[str, FastQ]:
    return {name: value for name, value in vars(module).items() if isinstance(value, FastQ)}


def _kind(found: object) -> str:
    return "missing" if found is None else f"of type {type(found).__name__}"


def _module_name(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, ValueError):
        return ""
