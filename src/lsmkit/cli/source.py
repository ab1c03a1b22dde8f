"""A file of rows as bytes: its name, its compression, and pieces that end where a line does."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import sys
import zlib
from importlib import import_module
from typing import IO, Any

from lsmkit.cli.output import CommandError

BLOCK_BYTES = 1 << 20
ROW_BYTES_MAX = 64 << 20  # what is longer is a file of another kind, or a quote never closed

FORMATS = ("csv", "tsv", "jsonl", "parquet", "pairs")
ENDINGS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".pairs": "pairs",
}
DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


class InputError(CommandError):
    """The file cannot be read (further) as what it is said to be."""


class Source:
    """A file opened for reading, behind its compression.

    `position` and `size` count the bytes of the file as it lies on the disk, for the progress;
    `size` is None where it cannot be known.
    """

    def __init__(self, path: str) -> None:
        self.name = "standard input" if path == "-" else path
        self.size: int | None = None
        self.ending = ""
        self._rest = b""
        if path == "-":
            self._raw: IO[bytes] = sys.stdin.buffer
            self._file: Any = self._raw
            return
        self._raw = open(path, "rb")  # noqa: SIM115  (closed by __exit__)
        try:
            self.size = os.fstat(self._raw.fileno()).st_size or None
            root, self.ending = os.path.splitext(path)
            self._file = _decompress(self._raw, self.ending.lower(), path)
            if self._file is not self._raw:
                self.ending = os.path.splitext(root)[1]
        except BaseException:
            self._raw.close()
            raise

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        if self._raw is not sys.stdin.buffer:
            self._file.close()
            self._raw.close()

    @property
    def position(self) -> int:
        return 0 if self.size is None else self._raw.tell()

    def read(self, size: int = -1) -> bytes:
        try:
            data: bytes = self._file.read(size)
            return data
        except DAMAGED as error:
            raise InputError(f"{self.name}: the compressed data is damaged: {error}") from None
        except Exception as error:
            if type(error).__name__ == "ZstdError":  # of whichever package is there
                raise InputError(f"{self.name}: the compressed data is damaged: {error}") from None
            raise

    def format(self) -> str:
        """The format that the name tells."""
        name = ENDINGS.get(self.ending.lower())
        if name is None:
            raise InputError(
                f"{self.name}: the name tells no format; say --format {'|'.join(FORMATS)}"
            )
        return name

    def seekable(self) -> Any:
        """For Parquet, which is read from its end: the file, or all of it in memory."""
        if self._file is self._raw and self.size is not None:
            return self._raw
        return io.BytesIO(self.read())

    def block(self, left: bytes = b"") -> tuple[bytes, bool]:
        """The next piece of the file, which ends where a line does, and whether it is the last.

        `left` is the end of the piece before, which the caller could not use yet: it comes first.
        """
        data = left + self._rest
        while True:
            # Reading as much as there is already keeps a long row linear.
            more = self.read(max(BLOCK_BYTES, len(data)))
            data += more
            cut = data.rfind(b"\n") + 1
            if not more:
                self._rest = b""
                return data, True
            if cut > len(left):
                self._rest = data[cut:]
                return data[:cut], False
            if len(data) - len(left) > ROW_BYTES_MAX:
                raise InputError(f"{self.name}: a line of more than {ROW_BYTES_MAX >> 20} MiB")


def _decompress(raw: IO[bytes], ending: str, path: str) -> Any:
    if ending == ".gz":
        return gzip.GzipFile(fileobj=raw, mode="rb")
    if ending == ".bz2":
        return bz2.BZ2File(raw)
    if ending == ".xz":
        return lzma.LZMAFile(raw)
    if ending == ".zst":
        return _decompress_zstd(raw, path)
    return raw


def _decompress_zstd(raw: IO[bytes], path: str) -> Any:
    # By name, because neither is everywhere: the first came with Python 3.14.
    try:
        return import_module("compression.zstd").ZstdFile(raw)
    except ImportError:
        pass
    try:
        zstandard = import_module("zstandard")
    except ImportError:
        raise InputError(f"{path}: reading .zst needs the zstandard package") from None
    # Closing is left to the source, which knows the file below.
    reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=False)
    return io.BufferedReader(reader, BLOCK_BYTES)
