"""Servers that are broker and backend at once: connection, schema and scripts, shared by both rooms.

Here too: the registry that finds the class for a URL's scheme.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from fastq.errors import MissingExtra, UnknownScheme, did_you_mean

T = TypeVar("T")

#: The schemes of Redis URLs, and the kind of deployment that each stands for.
REDIS_KINDS = {
    "redis": "single",
    "rediss": "single",
    "redis+unix": "unix",
    "redis+sentinel": "sentinel",
    "redis+cluster": "cluster",
}

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://", re.ASCII)


@dataclass(frozen=True)
class Opener:
    """Where the class for a scheme lives, and which extra brings its library."""

    module: str
    name: str
    extra: str = ""


@dataclass(frozen=True)
class Registry(Generic[T]):
    """Finds the class for a URL: fastq's own by scheme, third parties' by entry point."""

    kind: str
    group: str
    modules: Mapping[str, Opener]

    def open(self, url: str, **options: Any) -> T:
        """Return an instance for `url`. Raises UnknownScheme, MissingExtra, or what the class raises."""
        return self.find(url)(url, **options)

    def find(self, url: str) -> Callable[..., T]:
        """Import and return the class for `url`. Raises UnknownScheme, MissingExtra."""
        match = _SCHEME.match(url)
        if match is None:
            raise UnknownScheme(
                f"{mask(url)!r} is not a {self.kind} URL: it has the form scheme://…, as sqlite:///fastq.db"
            )
        return self._find(match[1].lower(), url)

    def _find(self, scheme: str, url: str) -> Callable[..., T]:
        opener = self.modules.get(scheme)
        if opener is None:
            from importlib.metadata import entry_points

            for entry in entry_points(group=self.group, name=scheme):
                return cast("Callable[..., T]", entry.load())
            hint = did_you_mean(f"{scheme}://", [f"{known}://" for known in self.modules])
            raise UnknownScheme(f"There is no {self.kind} for {mask(url)!r}: {hint}")
        try:
            module = importlib.import_module(opener.module)
        except ModuleNotFoundError as error:
            if not opener.extra or (error.name or "").startswith("fastq"):
                raise
            raise MissingExtra(
                f"{scheme}:// needs the library {error.name!r}: pip install 'fastq-worker[{opener.extra}]'"
            ) from error
        return cast("Callable[..., T]", getattr(module, opener.name))


def mask(url: str) -> str:
    """Return a URL with its password hidden, fit to be shown."""
    return re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", url)
