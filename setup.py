"""Builds the compiled bodies of `fastq._speedups`; everything else about the package is in pyproject.toml.

Off Linux, without a compiler, or with ``FASTQ_PURE=1`` in the environment, the installation is pure Python.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = "fastq/_speedups"
SOURCES = {"frames_c": ["frames.h"], "channel_c": ["channel.h", "region.h", "channel.pxd"]}

FLAGS = ["-std=c11", "-O2", "-Wall", "-Wextra"]
# What Cython writes draws these; `make sanitize` compiles our own headers without the exceptions.
FLAGS += ["-Wno-unused-parameter", "-Wno-unused-function", "-Wno-missing-field-initializers"]
if Path(".git").exists():  # a user's compiler may know warnings that ours doesn't, and is to build all the same
    FLAGS.append("-Werror")


class OptionalBuild(build_ext):
    """Builds all the extensions or, where that fails, none."""

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            self.extensions = []
            reason = str(error).partition("\n")[0]
            print(f"fastq: installing without the compiled bodies, which can't be built here ({reason})")


def extensions() -> list[Extension]:
    if os.environ.get("FASTQ_PURE") == "1":
        print("fastq: installing without the compiled bodies (FASTQ_PURE=1)")
        return []
    if not sys.platform.startswith("linux"):
        print(f"fastq: installing without the compiled bodies, which are for Linux (this is {sys.platform})")
        return []
    return [
        Extension(
            f"fastq._speedups.{name}",
            [f"{FOLDER}/{name}.pyx"],
            depends=[f"{FOLDER}/{other}" for other in others],
            extra_compile_args=FLAGS,
        )
        for name, others in SOURCES.items()
    ]


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": OptionalBuild},
    exclude_package_data={"fastq._speedups": ["*.c", "*.h", "*.pxd", "*.pyx"]},  # sources go into the sdist only
)
