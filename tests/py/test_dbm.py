"""Claim: a program that has the standard library's `dbm` or `shelve` can have lsmkit instead.

Method: the standard library's own tests of both are run with lsmkit in the place of its databases;
then what those leave open, one sentence each.
"""

from __future__ import annotations

import dbm
import os
import pickle
import shelve
import stat
import unittest
from pathlib import Path

import pytest

import lsmkit
import lsmkit.dbm

# --- The standard library's own tests --------------------------------------------------------


def failures(*cases: type[unittest.TestCase]) -> list[str]:
    """What these tests say of themselves, where they do not pass."""
    suite = unittest.TestSuite(map(unittest.defaultTestLoader.loadTestsFromTestCase, cases))
    assert suite.countTestCases() > 0
    result = unittest.TestResult()
    suite.run(result)
    return [f"{test}\n{text}" for test, text in result.failures + result.errors]


@pytest.fixture
def instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a database with `dbm` gets one of ours, in a directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dbm, "open", lsmkit.dbm.open)


@pytest.mark.usefixtures("instead")
def test_the_tests_of_dbm_pass() -> None:
    suite = pytest.importorskip("test.test_dbm")
    case = type("Ours", (suite.AnyDBMTestCase, unittest.TestCase), {"module": lsmkit.dbm})
    assert failures(case) == []


@pytest.mark.usefixtures("instead")
def test_the_tests_of_shelve_pass() -> None:
    suite = pytest.importorskip("test.test_shelve")
    assert failures(suite.TestCase) == []


@pytest.mark.usefixtures("instead")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_tests_of_mappings_pass_on_a_shelf(protocol: int) -> None:
    suite = pytest.importorskip("test.test_shelve")
    mappings = pytest.importorskip("test.mapping_tests")
    bases = (suite.TestShelveFileBase, mappings.BasicTestMappingProtocol)
    case = type("Ours", bases, {"dbm_mod": lsmkit.dbm, "_args": {"protocol": protocol}})
    assert failures(case) == []


# --- Opening ---------------------------------------------------------------------------------


def test_it_is_there_without_an_import_of_its_own(store_path: str) -> None:
    with lsmkit.dbm.open(store_path, "c") as db:
        assert isinstance(db, lsmkit.dbm._Database)


def test_r_and_w_want_a_database_that_is_there(store_path: str) -> None:
    for flag in ("r", "w"):
        with pytest.raises(lsmkit.dbm.error) as caught:
            lsmkit.dbm.open(store_path, flag)
        assert isinstance(caught.value, OSError)
        assert isinstance(caught.value.__cause__, lsmkit.StoreNotFoundError)
    with pytest.raises(lsmkit.dbm.error):
        lsmkit.dbm.open(store_path)
    assert not os.path.exists(store_path)


def test_r_reads_beside_a_writer_and_writes_nothing(store_path: str) -> None:
    with lsmkit.dbm.open(store_path, "c") as db:
        db["a"] = "1"
        with lsmkit.dbm.open(store_path) as reader:
            assert reader["a"] == b"1"
            for write in (
                lambda: reader.__setitem__("a", "2"),
                lambda: reader.__delitem__("a"),
                lambda: reader.setdefault("b", "2"),
                reader.clear,
                reader.popitem,
                reader.reorganize,
            ):
                with pytest.raises(lsmkit.dbm.error, match="read-only"):
                    write()
        assert db.items() == [(b"a", b"1")]


def test_a_second_writer_is_refused(store_path: str) -> None:
    with lsmkit.dbm.open(store_path, "c") as db:
        for flag in ("w", "c", "n"):
            with pytest.raises(lsmkit.dbm.error) as caught:
                lsmkit.dbm.open(store_path, flag)
            assert isinstance(caught.value.__cause__, lsmkit.LockedError)
        db["a"] = "still there"
        assert db["a"] == b"still there"


def test_c_and_w_keep_and_n_replaces(store_path: str) -> None:
    with lsmkit.dbm.open(store_path, "n") as db:
        db["a"] = "1"
    for flag in ("w", "c"):
        with lsmkit.dbm.open(store_path, flag) as db:
            assert db.keys() == [b"a"]
    with lsmkit.dbm.open(store_path, "n") as db:
        assert db.keys() == []
        assert not db
    with lsmkit.dbm.open(store_path, "r") as db:
        assert len(db) == 0


def test_n_replaces_a_file(store_path: str) -> None:
    Path(store_path).write_bytes(b"some other database")
    with pytest.raises(lsmkit.dbm.error):
        lsmkit.dbm.open(store_path, "c")
    assert Path(store_path).read_bytes() == b"some other database"
    with lsmkit.dbm.open(store_path, "n") as db:
        assert db.keys() == []


def test_another_flag_is_refused(store_path: str) -> None:
    for flag in ("", "x", "rw", "cf", "R"):
        with pytest.raises(ValueError, match="flag is"):
            lsmkit.dbm.open(store_path, flag)


def test_a_place_where_no_directory_can_be_is_an_error(store_path: str) -> None:
    for flag in ("c", "n"):
        with pytest.raises(lsmkit.dbm.error) as caught:
            lsmkit.dbm.open(store_path + "/not/there", flag)
        assert isinstance(caught.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize(("mode", "made"), [(0o666, 0o777), (0o600, 0o700), (0o640, 0o750)])
def test_mode_is_of_the_directory(store_path: str, mode: int, made: int) -> None:
    before = os.umask(0)
    try:
        lsmkit.dbm.open(store_path, "c", mode).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(store_path).st_mode) == made


def test_damage_is_an_error_with_its_cause(store_path: str) -> None:
    with lsmkit.dbm.open(store_path, "c") as db:
        db["a"] = "1"
    Path(store_path, "CURRENT").write_bytes(b"rubbish")
    with pytest.raises(lsmkit.dbm.error) as caught:
        lsmkit.dbm.open(store_path)
    assert isinstance(caught.value.__cause__, lsmkit.CorruptionError)


# --- The mapping -----------------------------------------------------------------------------


@pytest.fixture
def filled(store_path: str) -> lsmkit.dbm._Database:
    db = lsmkit.dbm.open(store_path, "c")
    db.update({"b": "2", b"a": b"1", "ü": "ö"})
    return db


def test_text_is_utf_8_and_comes_back_as_bytes(filled: lsmkit.dbm._Database) -> None:
    assert filled.keys() == [b"a", b"b", b"\xc3\xbc"]
    assert filled["ü"] == filled[b"\xc3\xbc"] == filled.get("ü") == b"\xc3\xb6"
    assert "ü" in filled
    assert b"a" in filled
    assert "c" not in filled
    del filled["ü"]
    assert filled.pop("b") == b"2"
    assert filled.keys() == [b"a"]


def test_keys_values_and_items_are_lists(filled: lsmkit.dbm._Database) -> None:
    for found in (filled.keys(), filled.values(), filled.items()):
        assert isinstance(found, list)
    assert filled.items() == list(zip(filled.keys(), filled.values(), strict=True))
    assert list(filled) == filled.keys()
    assert len(filled) == 3


def test_missing_keys_are_missed(filled: lsmkit.dbm._Database) -> None:
    assert filled.get("c") is None
    assert filled.get("c", "else") == "else"
    assert filled.pop("c", None) is None
    for look in (filled.__getitem__, filled.__delitem__, filled.pop):
        with pytest.raises(KeyError):
            look("c")


def test_setdefault_stores_what_is_not_there(filled: lsmkit.dbm._Database) -> None:
    assert filled.setdefault("a", "other") == b"1"
    assert filled.setdefault("c", "3") == b"3"
    assert filled.setdefault("d") == b""
    assert (filled["c"], filled["d"]) == (b"3", b"")


def test_firstkey_and_nextkey_visit_every_key(filled: lsmkit.dbm._Database) -> None:
    found = []
    key = filled.firstkey()
    while key is not None:
        found.append(key)
        key = filled.nextkey(key)
    assert found == filled.keys()
    assert filled.nextkey("aa") == b"b"
    filled.clear()
    assert filled.firstkey() is None
    with pytest.raises(KeyError):
        filled.popitem()


def test_reorganize_and_sync_change_nothing_that_is_read(filled: lsmkit.dbm._Database) -> None:
    before = filled.items()
    filled.sync()
    filled.reorganize()
    filled.sync()
    assert filled.items() == before


def test_what_is_neither_text_nor_bytes_is_refused(filled: lsmkit.dbm._Database) -> None:
    for key, value in ((1, b"x"), (None, b"x"), ("a", 1), ("a", None)):
        with pytest.raises(TypeError):
            filled[key] = value  # type: ignore[index,assignment]
    assert filled["a"] == b"1"


def test_a_closed_database_is_an_error_and_closes_again(filled: lsmkit.dbm._Database) -> None:
    iteration = iter(filled)
    next(iteration)
    filled.close()
    filled.close()
    for use in (
        lambda: filled["a"],
        lambda: filled.get("a"),
        lambda: "a" in filled,
        lambda: filled.__setitem__("a", "1"),
        lambda: next(iteration),
        filled.keys,
        filled.values,
        filled.items,
        filled.firstkey,
        filled.sync,
        lambda: len(filled),
        lambda: bool(filled),
    ):
        with pytest.raises(lsmkit.dbm.error, match="closed"):
            use()
    assert "closed" in repr(filled)


# --- shelve ----------------------------------------------------------------------------------


def test_a_shelf_comes_back(store_path: str) -> None:
    with shelve.Shelf(lsmkit.dbm.open(store_path, "c"), writeback=True) as shelf:
        shelf["list"] = [1, 2]
        shelf["list"].append(3)
        shelf.sync()
        shelf["dict"] = {"a": b"1"}
    with shelve.Shelf(lsmkit.dbm.open(store_path)) as shelf:
        assert dict(shelf) == {"list": [1, 2, 3], "dict": {"a": b"1"}}
