"""Builds the compiled bodies of `fastq._speedups`; everything else about the package is in pyproject.toml.

Off Linux, without a compiler, or with ``FASTQ_PURE=1`` in the environment, the installation is pure Python. The body
of the AMQP link is built where rabbitmq-c and its headers are (Debian's librabbitmq-dev); the others don't need it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = "fastq/_speedups"
SOURCES = {"frames_c": ["frames.h"], "channel_c": ["channel.h", "region.h", "channel.pxd"]}
AMQP_DEPENDS = ["amqp_fields.h", "amqp.pxd", "amqp_tables_c.pxd"]
AMQP_SOURCES = {"amqp_tables_c": AMQP_DEPENDS, "amqp_c": AMQP_DEPENDS}

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
    found = [extension(name, others) for name, others in SOURCES.items()]
    where = rabbitmq_c()
    if where is None:
        print("fastq: installing without the compiled AMQP link: rabbitmq-c or its headers are not here")
        return found
    flags, libraries = where
    for name, others in AMQP_SOURCES.items():
        found.append(extension(name, others))
        found[-1].extra_compile_args += flags
        found[-1].extra_link_args += libraries
        found[-1].optional = True  # if it can't be built, the others can
    return found


def extension(name: str, depends: list[str]) -> Extension:
    return Extension(
        f"fastq._speedups.{name}",
        [f"{FOLDER}/{name}.pyx"],
        depends=[f"{FOLDER}/{other}" for other in depends],
        extra_compile_args=list(FLAGS),
    )


def rabbitmq_c() -> tuple[list[str], list[str]] | None:
    """Return what compiler and linker have to be told about rabbitmq-c; None where it isn't."""
    if tool := shutil.which("pkg-config"):
        told = [
            subprocess.run([tool, what, "librabbitmq"], capture_output=True, text=True, check=False)
            for what in ("--cflags", "--libs")
        ]
        if not any(answer.returncode for answer in told):
            return told[0].stdout.split(), told[1].stdout.split()
    for folder in ("/usr/include", "/usr/local/include"):
        if Path(folder, "amqp_framing.h").exists() or Path(folder, "rabbitmq-c", "framing.h").exists():
            return [f"-I{folder}"], ["-lrabbitmq"]
    return None


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": OptionalBuild},
    exclude_package_data={"fastq._speedups": ["*.c", "*.h", "*.pxd", "*.pyx"]},  # sources go into the sdist only
)
