"""Compression of bodies: zlib and zstd, and the reading of what strangers compressed, within a bound."""

from __future__ import annotations

import zlib
from typing import Any

from .errors import EncodingError, MissingExtra

_LARGEST_WINDOW = 1 << 23  # of zstd: what RFC 8878 asks every reader to bear


def compress(coding: str, data: bytes) -> bytes:
    """Return the data, compressed. Raises MissingExtra."""
    if coding == "zlib":
        return zlib.compress(data)
    packed: bytes = _zstandard().ZstdCompressor(write_content_size=True).compress(data)
    return packed


def decompress(coding: str, data: bytes, most: int) -> bytes:
    """Return what was compressed, of no more than so many bytes. Raises EncodingError, MissingExtra.

    It takes no more memory than that, however much the data stands for.
    """
    return _from_zlib(data, most) if coding == "zlib" else _from_zstd(data, most)


def _from_zlib(data: bytes, most: int) -> bytes:
    reader = zlib.decompressobj()
    try:
        found = reader.decompress(data, most + 1)
    except zlib.error as error:
        raise EncodingError(f"{len(data)} bytes are not valid zlib: {error}") from error
    if len(found) > most:
        raise _too_large(data, most)
    if not reader.eof or reader.unused_data:
        raise EncodingError(f"{len(data)} bytes are not valid zlib: they are cut short, or go on behind their end")
    return found


def _from_zstd(data: bytes, most: int) -> bytes:
    zstandard = _zstandard()
    try:
        size = zstandard.frame_content_size(data)
        if size > most:
            raise _too_large(data, most)
        if size < 0:
            raise EncodingError(f"{len(data)} bytes of zstd do not say for how many they stand")
        reader = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
        found: bytes = reader.decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise EncodingError(f"{len(data)} bytes are not valid zstd: {error}") from error
    return found


def _too_large(data: bytes, most: int) -> EncodingError:
    return EncodingError(f"{len(data)} bytes stand for more than {most}, the limit of max_decompressed_bytes")


def _zstandard() -> Any:
    try:
        import zstandard
    except ModuleNotFoundError as error:
        raise MissingExtra("Compression by zstd needs a library: pip install 'fastq-worker[zstd]'") from error
    return zstandard
