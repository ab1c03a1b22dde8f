"""Point reads among a million rows in tables, all in the cache.

Beside LMDB, which reads from its map and is the peer to beat, in its best form: one transaction
for all reads.
"""

from __future__ import annotations

import pytest

from bench import workloads as w

LOOKUPS = w.rows(200_000, multiple=10_000)
SECONDS_MAX = w.seconds(0.6)


@pytest.fixture(scope="module", autouse=True)
def _warm(million):
    million.warm()


def lookups(million):
    """Present keys in random order."""
    count = len(million.keys)
    return w.drawn(w.key_array(count), w.uniform(LOOKUPS, count))


def pieces_of(keys, size):
    return [keys[i : i + size] for i in range(0, len(keys), size)]


def test_get(compete, million, report):
    pieces = pieces_of(lookups(million), 10_000)
    for store in million.stores.values():
        assert store.get(million.keys[17]) == million.values[17]
    samples = compete(
        million.turns(lambda s: w.rate(w.getter(s.reader()), pieces, SECONDS_MAX, 10_000))
    )
    report.race("get, cached", samples, 1.5, against=["lmdb"])
    report.race("  beside rocksdict", samples, 7, against=["rocksdict"])


def test_get_absent(compete, million, report):
    pieces = pieces_of(w.keys(LOOKUPS, 1), 10_000)
    for store in million.stores.values():
        assert store.get(pieces[0][0]) is None
    samples = compete(
        million.turns(lambda s: w.rate(w.getter(s.reader()), pieces, SECONDS_MAX, 10_000))
    )
    report.race("get, absent keys", samples, 4, against=["lmdb"])


def test_get_many(compete, million, report):
    pieces = pieces_of(lookups(million), 100)
    for store in million.stores.values():
        assert store.get_many(million.keys[:3]) == million.values[:3]
    samples = compete(million.turns(lambda s: w.rate(s.get_many, pieces, SECONDS_MAX, 100)))
    report.race("get_many of 100", samples, 3, against=["lmdb"])
