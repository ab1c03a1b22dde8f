"""Contestants that do the same work in turn, in one run: what all ratios are made of.

A round is one turn of each; there are five, and the order moves on by one in each, so that nobody
always follows the same neighbour. Before a turn the process has to be at rest: compaction that one
engine still owes must not be paid by the next. pytest-benchmark runs the rounds and keeps their
figures (`--benchmark-json=FILE`).
"""

from __future__ import annotations

import gc
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from bench.engines import BY_NAME, ENGINES, Engine, Memory
from bench.workloads import sorted_chunks

ROUNDS = 5
REST_SECONDS_MAX = 20.0

Turn = Callable[[], float]
Samples = dict[str, list[float]]


def at_rest(most: float = REST_SECONDS_MAX) -> None:
    """Returns when no thread of this process has had work for a while, or after `most` seconds."""
    end = time.monotonic() + most
    still = 0
    while still < 2 and time.monotonic() < end:
        before = time.process_time()
        time.sleep(0.02)
        still = still + 1 if time.process_time() - before < 0.002 else 0


def run(benchmark: Any, turns: Mapping[str, Turn], rounds: int = ROUNDS) -> Samples:
    """What each contestant measured, a figure a round."""
    samples: Samples = {name: [] for name in turns}
    order = list(turns)

    def one_round() -> None:
        for name in order:
            gc.collect()
            at_rest()
            samples[name].append(turns[name]())
        order.append(order.pop(0))

    benchmark.pedantic(one_round, rounds=rounds, iterations=1)
    benchmark.extra_info.update(samples)
    return samples


def median(samples: Samples, name: str) -> float:
    return statistics.median(samples[name])


class Place:
    """Where stores are made: a folder of its own for each."""

    def __init__(self, root: str) -> None:
        self.root = root

    @contextmanager
    def folder(self) -> Iterator[str]:
        path = tempfile.mkdtemp(dir=self.root)
        try:
            yield path
        finally:
            shutil.rmtree(path)

    @contextmanager
    def store(
        self, engine: type[Engine], durability: str = "process", memory: Memory | None = None
    ) -> Iterator[Engine]:
        """A new store, which is gone afterwards."""
        with self.folder() as path:
            opened = engine(path, durability, memory)
            try:
                yield opened
            finally:
                opened.close()

    def fresh(
        self,
        work: Callable[[Any], float],
        *,
        only: list[str] | None = None,
        durability: str = "process",
        memory: Memory | None = None,
    ) -> dict[str, Turn]:
        """A turn for each engine: the work, in a new store that has finished opening."""

        def turn(engine: type[Engine]) -> float:
            with self.store(engine, durability, memory) as store:
                at_rest()
                return work(store)

        return {
            engine.name: partial(turn, engine)
            for engine in ENGINES
            if only is None or engine.name in only
        }


class Loaded:
    """One store an engine, all with the same rows, open as long as the tests that share them."""

    def __init__(self, place: Place, keys: list[bytes], values: list[bytes]) -> None:
        self.place = place
        self.keys, self.values = keys, values
        self.stores: dict[str, Engine] = {}
        self.paths: dict[str, str] = {}
        in_order = sorted_chunks(keys, values, 10_000)
        for engine in ENGINES:
            self.paths[engine.name] = os.path.join(tempfile.mkdtemp(dir=place.root), engine.name)
            store = self.stores[engine.name] = engine(self.paths[engine.name])
            for piece in in_order:
                store.put_many(*piece)
            store.rest()

    def reopen(self, name: str) -> Engine:
        """Opens the store of an engine, which has been closed."""
        store = self.stores[name] = BY_NAME[name](self.paths[name])
        return store

    def warm(self) -> None:
        """Reads everything once, by scan and by key."""
        for store in self.stores.values():
            for _ in store.scan():
                pass
            get = store.reader()
            for key in self.keys:
                get(key)

    def turns(self, work: Callable[[Any], float]) -> dict[str, Turn]:
        def turn(name: str) -> float:
            return work(self.stores[name])

        return {name: partial(turn, name) for name in self.stores}

    def close(self) -> None:
        for store in self.stores.values():
            store.close()
        for path in self.paths.values():
            shutil.rmtree(os.path.dirname(path))
