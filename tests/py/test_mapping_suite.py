"""Claim: what the standard library asks of a mapping, a store and a transaction have.

Method: CPython's own tests of mappings (test.mapping_tests) are run on them, with bytes for their
keys and values. Those of `dbm` and `shelve` are in test_dbm.py.
"""

from __future__ import annotations

import unittest
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest

import lsmkit

suite = pytest.importorskip("test.mapping_tests")


class OfBytes:
    """Has to stand before the tests among the bases."""

    make: Callable[[], MutableMapping[bytes, bytes]]

    def _reference(self) -> dict[bytes, bytes]:
        return {b"1": b"2", b"key1": b"value1", b"key2": b"(1, 2, 3)"}

    def _empty_mapping(self) -> Any:
        return type(self).make()


def store() -> lsmkit.DB:
    return lsmkit.open(":memory:", segment_bytes=65536)


MADE: dict[str, Callable[[], MutableMapping[bytes, bytes]]] = {
    "store": store,
    "transaction": lambda: store().transaction(),
}


@pytest.mark.parametrize("name", MADE)
def test_the_tests_of_mappings_pass(name: str) -> None:
    case = type(
        "Ours", (OfBytes, suite.BasicTestMappingProtocol), {"make": staticmethod(MADE[name])}
    )
    tests = unittest.defaultTestLoader.loadTestsFromTestCase(case)
    result = unittest.TestResult()
    tests.run(result)
    assert result.testsRun > 10
    assert [text for _, text in result.failures + result.errors] == []
