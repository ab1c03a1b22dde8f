"""Claim: a store is a mapping of bytes to bytes, and refuses what is no key or value by name.

Method: each operation beside a dict, in the log alone and with everything in tables; wrong
arguments one at a time, with the store looked at afterwards.
"""

from __future__ import annotations

import array
import copy
import random
import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import pytest

import lsmkit

KEY_BYTES_MAX = 65_535


@pytest.fixture(params=["log", "tables"])
def filled(request: pytest.FixtureRequest, db: lsmkit.DB) -> lsmkit.DB:
    """A store that holds `PAIRS`, in its log or in its tables."""
    for key, value in PAIRS.items():
        db[key] = value
    if request.param == "tables":
        db.flush()
    return db


PAIRS = {b"": b"the empty key", b"a": b"1", b"a\0": b"", b"b": b"2" * 5000, b"\xff\xff": b"last"}


def test_it_is_a_mutable_mapping(db: lsmkit.DB) -> None:
    assert isinstance(db, MutableMapping)


def test_it_reads_as_the_dict_that_was_written(filled: lsmkit.DB) -> None:
    assert dict(filled) == PAIRS
    assert filled == PAIRS
    assert len(filled) == len(PAIRS)
    assert list(filled) == list(filled.keys()) == sorted(PAIRS)
    assert list(reversed(filled)) == sorted(PAIRS, reverse=True)
    assert list(filled.values()) == [PAIRS[key] for key in sorted(PAIRS)]
    assert list(filled.items()) == sorted(PAIRS.items())
    assert len(filled.items()) == len(filled.keys()) == len(filled.values()) == len(PAIRS)
    assert (b"a", b"1") in filled.items()
    assert b"1" in filled.values()
    assert b"a" in filled.keys()  # noqa: SIM118


def test_present_keys_are_found(filled: lsmkit.DB) -> None:
    for key, value in PAIRS.items():
        assert key in filled
        assert filled[key] == filled.get(key) == value


def test_absent_keys_are_not_found(filled: lsmkit.DB) -> None:
    for key in (b"aa", b"\0", b"\xff", b"\xff\xff\xff", b"c"):
        assert key not in filled
        assert filled.get(key) is None
        assert filled.get(key, b"else") == b"else"
        with pytest.raises(KeyError) as caught:
            filled[key]
        assert caught.value.args == (key,)


def test_an_empty_store_is_false_and_a_filled_one_true(db: lsmkit.DB) -> None:
    assert not db
    assert len(db) == 0
    db[b""] = b""
    assert db
    del db[b""]
    assert not db


def test_deleting_removes(filled: lsmkit.DB) -> None:
    del filled[b"a"]
    filled.delete(b"b")

    assert b"a" not in filled
    assert b"b" not in filled
    assert len(filled) == len(PAIRS) - 2
    filled.flush()
    assert list(filled) == [b"", b"a\0", b"\xff\xff"]


def test_deleting_what_is_absent_is_an_error_of_del_alone(filled: lsmkit.DB) -> None:
    filled.delete(b"absent")
    with pytest.raises(KeyError):
        del filled[b"absent"]

    assert filled == PAIRS


def test_writing_replaces(filled: lsmkit.DB) -> None:
    filled.put(b"a", b"new")
    filled[b"b"] = b"newer"

    assert (filled[b"a"], filled[b"b"], len(filled)) == (b"new", b"newer", len(PAIRS))


def test_setdefault_stores_once(db: lsmkit.DB) -> None:
    assert db.setdefault(b"k", b"first") == b"first"
    assert db.setdefault(b"k", b"second") == b"first"
    assert db[b"k"] == b"first"


def test_pop_takes_out(filled: lsmkit.DB) -> None:
    assert filled.pop(b"a") == b"1"
    assert filled.pop(b"a", b"gone") == b"gone"
    assert filled.pop(b"a", None) is None
    with pytest.raises(KeyError):
        filled.pop(b"a")
    assert b"a" not in filled


def test_popitem_takes_until_there_is_none(filled: lsmkit.DB) -> None:
    assert dict(filled.popitem() for _ in PAIRS) == PAIRS
    with pytest.raises(KeyError):
        filled.popitem()


class Keyed:
    """What `dict.update` takes too: no Mapping, but with keys."""

    def keys(self) -> list[bytes]:
        return list(PAIRS)

    def __getitem__(self, key: bytes) -> bytes:
        return PAIRS[key]


@pytest.mark.parametrize(
    "other",
    [PAIRS, list(PAIRS.items()), iter(PAIRS.items()), Keyed()],
    ids=lambda x: type(x).__name__,
)
def test_update_takes_what_dict_takes(db: lsmkit.DB, other: Any) -> None:
    other = iter(PAIRS.items()) if isinstance(other, Iterator) else other

    db.update(other)

    assert db == PAIRS


def test_update_with_another_store_and_with_nothing(db: lsmkit.DB, store_path: str) -> None:
    with lsmkit.open(store_path + "-other") as other:
        other.update(PAIRS)
        db.update(other)
    db.update()
    db.update({})

    assert db == PAIRS


def test_update_is_one_frame(db: lsmkit.DB) -> None:
    db.update(PAIRS)

    assert db.stats().writes.frames == 1


def test_update_that_fails_changes_nothing(db: lsmkit.DB) -> None:
    with pytest.raises(TypeError):
        db.update([(b"a", b"1"), (b"b", "text")])
    with pytest.raises(TypeError):
        db.update(a=b"1")
    with pytest.raises(ValueError):
        db.update([(b"a", b"1"), (b"b",)])

    assert not db


def test_clear_empties(filled: lsmkit.DB) -> None:
    filled.clear()

    assert not filled
    assert list(filled.items()) == []
    filled.flush()
    filled.compact()
    assert len(filled) == 0
    filled[b"a"] = b"again"
    assert dict(filled) == {b"a": b"again"}


def test_anything_with_the_buffer_protocol_is_taken(db: lsmkit.DB) -> None:
    class Named(bytes):
        pass

    forms: list[Any] = [
        bytearray(b"k1"),
        memoryview(b"xk2x")[1:3],
        Named(b"k3"),
        array.array("B", b"k4"),
    ]
    for key in forms:
        db.put(key, key)
        assert db[key] == bytes(key)
        assert type(db[key]) is bytes
        assert key in db
    np = pytest.importorskip("numpy")
    db.put(np.frombuffer(b"k5", "u1"), np.array([1, 2], "<i4"))

    assert db[b"k5"] == b"\1\0\0\0\2\0\0\0"
    assert db.get_many([np.frombuffer(b"k5", "u1"), bytearray(b"k1")]) == [db[b"k5"], b"k1"]
    db.delete(bytearray(b"k1"))
    del db[memoryview(b"k3")]
    assert list(db) == [b"k2", b"k4", b"k5"]


def test_what_was_given_may_change_afterwards(db: lsmkit.DB) -> None:
    key, value = bytearray(b"key"), bytearray(b"value")
    db.put(key, value)
    key[:] = value[:] = b"xxxxx"

    assert dict(db) == {b"key": b"value"}


KEY_CALLS = {
    "put": lambda db, key: db.put(key, b""),
    "get": lambda db, key: db.get(key),
    "delete": lambda db, key: db.delete(key),
    "getitem": lambda db, key: db[key],
    "setitem": lambda db, key: db.__setitem__(key, b""),
    "delitem": lambda db, key: db.__delitem__(key),
    "contains": lambda db, key: key in db,
    "setdefault": lambda db, key: db.setdefault(key, b""),
    "pop": lambda db, key: db.pop(key, None),
    "put_many": lambda db, key: db.put_many([b"k", key], [b"", b""]),
    "get_many": lambda db, key: db.get_many([b"k", key]),
    "delete_many": lambda db, key: db.delete_many([b"k", key]),
    "update": lambda db, key: db.update([(key, b"")]),
    "WriteBatch.put": lambda db, key: lsmkit.WriteBatch().put(key, b""),
    "WriteBatch.delete": lambda db, key: lsmkit.WriteBatch().delete(key),
    "scan start": lambda db, key: db.scan(key),
    "scan stop": lambda db, key: db.scan_keys(None, key),
    "scan prefix": lambda db, key: db.scan_values(prefix=key),
    "scan_columns": lambda db, key: db.scan_columns(key),
    "approximate_size": lambda db, key: db.approximate_size(key),
    "compact": lambda db, key: db.compact(key, b"z"),
}
VALUE_CALLS = {
    "put": lambda db, value: db.put(b"k", value),
    "setitem": lambda db, value: db.__setitem__(b"k", value),
    "setdefault": lambda db, value: db.setdefault(b"k", value),
    "put_many": lambda db, value: db.put_many([b"k", b"l"], [b"", value]),
    "update": lambda db, value: db.update({b"k": value}),
    "WriteBatch.put": lambda db, value: lsmkit.WriteBatch().put(b"k", value),
}


@pytest.mark.parametrize("wrong", ["text", 5, [b"a"]], ids=repr)
@pytest.mark.parametrize("name", KEY_CALLS)
def test_a_key_of_another_type_is_a_type_error(db: lsmkit.DB, name: str, wrong: Any) -> None:
    db[b"there"] = b"1"
    with pytest.raises(TypeError, match=r"str, not bytes-like|not bytes-like"):
        KEY_CALLS[name](db, wrong)
    assert dict(db) == {b"there": b"1"}


@pytest.mark.parametrize("wrong", ["text", 5, [b"a"]], ids=repr)
@pytest.mark.parametrize("name", VALUE_CALLS)
def test_a_value_of_another_type_is_a_type_error(db: lsmkit.DB, name: str, wrong: Any) -> None:
    with pytest.raises(TypeError, match="not bytes-like"):
        VALUE_CALLS[name](db, wrong)
    assert not db


@pytest.mark.parametrize("name", KEY_CALLS)
def test_a_key_that_is_too_long_is_a_value_error_with_the_range(db: lsmkit.DB, name: str) -> None:
    with pytest.raises(ValueError, match=r"65536 bytes, more than the 65535"):
        KEY_CALLS[name](db, b"x" * (KEY_BYTES_MAX + 1))
    with pytest.raises(ValueError, match=r"65536 bytes, more than the 65535"):
        KEY_CALLS[name](db, bytearray(KEY_BYTES_MAX + 1))
    assert not db


def test_the_longest_key_is_a_key(db: lsmkit.DB) -> None:
    longest = b"\xff" * KEY_BYTES_MAX
    db[longest] = b"1"
    db[longest[:-1]] = b"2"
    for _ in range(2):
        assert db[longest] == b"1"
        assert list(db) == [longest[:-1], longest]
        assert list(db.scan(longest, include_start=False)) == []
        assert list(db.scan_keys(stop=longest, include_stop=True)) == [longest[:-1], longest]
        assert list(db.scan_keys(prefix=longest)) == [longest]
        db.flush()
    del db[longest]
    assert list(db) == [longest[:-1]]


def test_a_value_larger_than_a_segment_is_stored(store_path: str) -> None:
    large = bytes(range(256)) * 4096
    with lsmkit.open(store_path, segment_bytes=65536) as db:
        db[b"large"] = large
        db.put_many([b"a", b"b"], [large, large[::-1]])
        assert (db[b"large"], db[b"a"], db[b"b"]) == (large, large, large[::-1])
        db.flush()
        assert (db[b"large"], db[b"a"], db[b"b"]) == (large, large, large[::-1])
    with lsmkit.open(store_path) as db:
        assert (db[b"large"], db[b"a"], db[b"b"]) == (large, large, large[::-1])


@pytest.mark.parametrize("call", [*KEY_CALLS, "value"])
def test_a_buffer_that_is_not_contiguous_is_a_buffer_error(db: lsmkit.DB, call: str) -> None:
    apart = memoryview(b"abcdef")[::2]
    with pytest.raises(BufferError, match="not contiguous"):  # noqa: PT012
        if call == "value":
            db.put(b"k", apart)
        else:
            KEY_CALLS[call](db, apart)
    assert not db


def test_arguments_behind_the_row_are_keywords(db: lsmkit.DB) -> None:
    with pytest.raises(TypeError):
        db.put(b"k", b"v", "sync")  # type: ignore[misc]
    with pytest.raises(TypeError):
        db.delete(b"k", "sync")  # type: ignore[misc]
    assert db.get(default=b"d", key=b"k") == b"d"
    db.put(key=b"k", value=b"v")
    db.delete(key=b"k")


def test_a_store_is_made_by_open_alone() -> None:
    for kind in (lsmkit.DB, lsmkit.Snapshot):
        with pytest.raises(TypeError, match=r"lsmkit\.open"):
            kind()


def test_a_store_is_hashed_by_identity(db: lsmkit.DB) -> None:
    assert db in {db}


def test_a_store_is_not_copied(db: lsmkit.DB) -> None:
    for attempt in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            attempt(db)


def test_repr_names_the_path_and_whether_it_is_closed(store_path: str) -> None:
    db = lsmkit.open(store_path)
    assert repr(db) == f"<lsmkit.DB at {store_path!r}>"
    db.close()
    assert repr(db) == f"<lsmkit.DB at {store_path!r}, closed>"


# --- Several threads -------------------------------------------------------------------------


def test_pop_del_and_setdefault_are_atomic(store_path: str) -> None:
    """Tokens wander between threads: each is taken once at a time; each name is given one value."""
    tokens = [b"token %d" % i for i in range(20)]
    taken = dict.fromkeys(tokens, 0)
    given: list[tuple[bytes, bytes]] = []
    errors: list[BaseException] = []
    stop = threading.Event()

    def take(db: lsmkit.DB, rng: random.Random) -> None:
        token = rng.choice(tokens)
        try:
            if rng.random() < 0.5:
                db.pop(token)
            else:
                del db[token]
        except KeyError:
            return
        taken[token] += 1  # nobody else has it now
        db[token] = b"%d" % taken[token]

    def name(db: lsmkit.DB, rng: random.Random) -> None:
        key = b"name %d" % rng.randrange(2000)
        given.append((key, db.setdefault(key, b"%d" % threading.get_ident())))

    def background(db: lsmkit.DB, rng: random.Random) -> None:
        db.flush()
        db.compact()

    def repeat(work: Callable[[lsmkit.DB, random.Random], None], seed: int) -> None:
        rng = random.Random(seed)
        try:
            while not stop.is_set():
                work(db, rng)
        except BaseException as error:
            errors.append(error)

    with lsmkit.open(store_path, segment_bytes=16384, table_bytes=16384) as db:
        db.put_many(tokens, [b"0"] * len(tokens))
        jobs = [take, take, take, name, name, name, background]
        threads = [
            threading.Thread(target=repeat, args=job) for job in zip(jobs, range(7), strict=True)
        ]
        switch = sys.getswitchinterval()
        sys.setswitchinterval(5e-5)
        try:
            for thread in threads:
                thread.start()
            stop.wait(1.5)
            stop.set()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(switch)
        assert not errors
        assert min(taken.values()) > 0
        assert {token: int(db[token]) for token in tokens} == taken
        assert dict(given) == {key: db[key] for key, _ in given}
        assert len(set(given)) == len({key for key, _ in given})


@pytest.mark.parametrize("place", ["log", "tables"])
def test_what_pop_and_setdefault_find_in_log_and_tables(store_path: str, place: str) -> None:
    with lsmkit.open(store_path, segment_bytes=4096, block_bytes=256, cache_bytes=0) as db:
        keys = [b"%04d" % i for i in range(500)]
        db.put_many(keys, keys)
        if place == "tables":
            db.compact()
        for key in keys[:100]:
            assert db.setdefault(key, b"other") == key
            assert db.pop(key) == key
            assert db.setdefault(key, bytearray(b"other")) == b"other"
        assert db.stats().writes.frames == 1 + 200
        assert list(db.values()) == [b"other"] * 100 + keys[100:]
