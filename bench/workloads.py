"""What is written and read: keys, values, orders of access, and how the time of it is taken.

Keys are 16 random bytes. Values are 100 bytes, 48 of them random and 52 the same in each, so that
they compress about by half, as records do. Everything comes from one seed and is the same for all
engines; objects are made before the clock runs, and each list is made in the order in which it is
used, so that the walk through it costs as little as it can.

    BENCH_SCALE=0.1     a tenth of the rows and of the seconds: a quick look, not a result
    BENCH_DIR=/data     where the stores are made, else where pytest has its temporary folders
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

SCALE = float(os.environ.get("BENCH_SCALE") or 1)
SEED = 20_240_229
KEY_BYTES = 16
VALUE_BYTES = 100
ROW_BYTES = KEY_BYTES + VALUE_BYTES
PATTERN = b'"unit":"deg C","state":"nominal","site":"roof-west"}'

Array = Any
Chunk = tuple[list[bytes], list[bytes]]


def rows(count: int, *, multiple: int = 1000) -> int:
    """So many rows, scaled; a multiple of 1000, the usual batch."""
    return max(int(count * SCALE) // multiple, 1) * multiple


def seconds(count: float) -> float:
    """So many seconds, scaled; a twentieth at least, below which nothing can be seen."""
    return max(count * SCALE, 0.05)


# ------------------------------------------------------------------ rows


def key_array(count: int, seed: int = 0) -> Array:
    """`count` random keys, (count, 16) bytes; another seed has other keys."""
    rng = np.random.default_rng([SEED, seed])
    return np.frombuffer(rng.bytes(KEY_BYTES * count), np.uint8).reshape(count, KEY_BYTES)


def value_array(count: int, seed: int = 0) -> Array:
    """Values; like keys, a shorter array is the beginning of a longer one."""
    rng = np.random.default_rng([SEED, 1, seed])
    values = np.empty((count, VALUE_BYTES), np.uint8)
    values[:, :48] = np.frombuffer(rng.bytes(48 * count), np.uint8).reshape(count, 48)
    values[:, 48:] = np.frombuffer(PATTERN, np.uint8)
    return values


def as_list(array: Array) -> list[bytes]:
    """One new `bytes` a row, side by side in memory."""
    width = array.shape[1]
    data = array.tobytes()
    return [data[i : i + width] for i in range(0, len(data), width)]


_made: dict[tuple[str, int], list[bytes]] = {}


def keys(count: int, seed: int = 0) -> list[bytes]:
    """The rows of `key_array`, made once for the longest list that was asked for."""
    return _first_of("keys", count, seed, key_array)


def values(count: int, seed: int = 0) -> list[bytes]:
    return _first_of("values", count, seed, value_array)


def _first_of(name: str, count: int, seed: int, array: Callable[[int, int], Array]) -> list[bytes]:
    made = _made.get((name, seed), [])
    if len(made) < count:
        made = _made[name, seed] = as_list(array(count, seed))
    return made[:count]


def counted_keys(count: int, first: int = 0) -> list[bytes]:
    """Keys of 16 bytes that grow by one."""
    return [b"%016d" % i for i in range(first, first + count)]


def drawn(source: Array, order: Array) -> list[bytes]:
    """Rows of an array in an order of access, as new objects in that order."""
    return as_list(source[order])


def uniform(count: int, among: int, seed: int = 0) -> Array:
    return np.random.default_rng([SEED, 2, seed]).integers(0, among, count)


def zipfian(count: int, among: int, seed: int = 0, theta: float = 0.99) -> Array:
    """Ranks, of which rank r comes up as 1 / (r + 1)^theta: the skew of YCSB."""
    cumulated = np.cumsum(1.0 / np.arange(1, among + 1) ** theta)
    draws = np.random.default_rng([SEED, 3, seed]).random(count) * cumulated[-1]
    return np.minimum(np.searchsorted(cumulated, draws), among - 1)


def chunks(keys: list[bytes], values: list[bytes], size: int) -> list[Chunk]:
    """Keys and values cut into pieces; the values repeat where they are fewer than the keys."""
    n = len(values) // size * size
    return [
        (keys[i : i + size], values[i % n : i % n + size])
        for i in range(0, len(keys) - size + 1, size)
    ]


def sorted_chunks(keys: list[bytes], values: list[bytes], size: int) -> list[Chunk]:
    """The same in key order, in which every engine loads fastest and is left in its best shape."""
    pairs = sorted(zip(keys, values, strict=True))
    return chunks([key for key, _ in pairs], [value for _, value in pairs], size)


# ------------------------------------------------------------------ work, against the clock


def rate(work: Callable[[Any], object], pieces: Sequence[Any], most: float, unit: int) -> float:
    """Units a second of doing `work` on one piece of `unit` units after another.

    It ends with the pieces, or after `most` seconds: a slow engine then has done less of the same
    work, and its store has stayed smaller.
    """
    now = time.perf_counter
    done = 0
    start = now()
    for piece in pieces:
        work(piece)
        done += unit
        if now() - start > most:
            break
    return done / (now() - start)


def putter(put: Callable[[bytes, bytes], object]) -> Callable[[Chunk], None]:
    """Puts a piece, one row a call."""

    def work(piece: Chunk) -> None:
        for key, value in zip(*piece, strict=True):
            put(key, value)

    return work


def batcher(put_many: Callable[[Any, Any], object]) -> Callable[[Chunk], object]:
    """Puts a piece in one call."""
    return lambda piece: put_many(*piece)


def getter(get: Callable[[bytes], object]) -> Callable[[list[bytes]], None]:
    def work(piece: list[bytes]) -> None:
        for key in piece:
            get(key)

    return work


def drain(rows: Iterable[Any]) -> None:
    """Takes all of an iterator, and does nothing else."""
    deque(rows, maxlen=0)


def first(rows: Iterator[Any], count: int) -> list[Any]:
    return list(islice(rows, count))
