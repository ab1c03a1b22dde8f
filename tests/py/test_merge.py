"""Claim: each operator of `lsmkit.merge` makes of operands what its documentation says, in whatever
groups they are folded, and refuses by name what it cannot merge.

Method: `fold` and `combine` against the same thing said in Python, over random operands and
groupings; texts, pickles and types there and back.
"""

from __future__ import annotations

import math
import pickle
import random
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import lsmkit
from lsmkit import merge


def q(number: int) -> bytes:
    return struct.pack("<q", number)


def d(number: float) -> bytes:
    return struct.pack("<d", number)


def wrapped(number: int) -> int:
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def joined(old: bytes | None, operand: bytes) -> bytes:
    return (b"" if old is None else old) + operand


RECORD = np.dtype([("count", "<i8"), ("low", "<f8"), ("high", "<f8"), ("last", "S4")])
STRUCT = merge.Struct(RECORD, count="add", low="min", high="max", last="last")


def struct_fold(rows: Sequence[bytes]) -> bytes:
    records = np.frombuffer(b"".join(rows), RECORD)
    out = np.zeros(1, RECORD)
    out["count"] = records["count"].sum()
    out["low"] = records["low"].min()
    out["high"] = records["high"].max()
    out["last"] = records["last"][-1]
    return out.tobytes()


def any_int(rng: random.Random) -> bytes:
    return q(rng.choice([0, 1, -1, (1 << 63) - 1, -(1 << 63), rng.randrange(-1000, 1000)]))


def any_bytes(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(12))


def any_stamped(rng: random.Random) -> bytes:
    return q(rng.randrange(-3, 3)) + any_bytes(rng)


def any_record(rng: random.Random) -> bytes:
    number = rng.randrange(-100, 100) / 4
    return np.array([(rng.randrange(100), number, number, b"abcd")], RECORD).tobytes()


def latest(rows: Sequence[bytes]) -> bytes:
    return max(enumerate(rows), key=lambda row: (struct.unpack_from("<q", row[1]), row[0]))[1]


def bits(rows: Sequence[bytes]) -> bytes:
    number = 0
    for row in rows:
        number |= int.from_bytes(row, "little")
    return number.to_bytes(11, "little")


def ints(fold: Callable[[list[int]], int]) -> Callable[[Sequence[bytes]], bytes]:
    return lambda rows: q(wrapped(fold([struct.unpack("<q", row)[0] for row in rows])))


def floats(rows: Sequence[bytes]) -> bytes:
    return d(sum(struct.unpack("<d", row)[0] for row in rows))


CASES: list[tuple[merge.Operator, Callable[[random.Random], bytes], Any]] = [
    (merge.AddInt64(), any_int, ints(sum)),
    (merge.MaxInt64(), any_int, ints(max)),
    (merge.MinInt64(), any_int, ints(min)),
    (merge.AddFloat64(), lambda rng: d(rng.randrange(-1000, 1000) / 8), floats),
    (merge.BitOr(), lambda rng: rng.randbytes(11), bits),
    (merge.Append(), any_bytes, b"".join),
    (merge.Latest(), any_stamped, latest),
    (STRUCT, any_record, struct_fold),
    (merge.Custom("join", joined, associative=True), any_bytes, b"".join),
]


# --- What they make --------------------------------------------------------------------------


@pytest.mark.parametrize(("operator", "draw", "expected"), CASES, ids=lambda x: str(x)[:20])
def test_fold_and_combine_agree_with_python_in_any_grouping(
    operator: merge.Operator, draw: Any, expected: Any
) -> None:
    rng = random.Random(7)
    for _ in range(200):
        rows = [draw(rng) for _ in range(rng.randrange(1, 8))]
        cut = rng.randrange(len(rows))
        assert operator.fold(None, rows) == expected(rows)
        assert operator.fold(rows[0], rows[1:] or rows) == expected(rows[:1] + (rows[1:] or rows))
        parts = [operator.combine(part) for part in (rows[:cut], rows[cut:]) if part]
        assert operator.fold(None, parts) == expected(rows)


def test_arrays_of_numbers_are_operands_of_the_operators_of_numbers() -> None:
    add, total = merge.AddInt64(), merge.AddFloat64()
    for kind in ("i1", "u1", "i2", ">i4", "u4", "i8", "u8", "?"):
        assert add.fold(None, np.array([1, 0, 1], kind)) == q(2)
        assert total.fold(q(0), np.array([1, 0, 1], kind)) == d(2.0)
    assert add.fold(None, np.array([-5, 3], "i2")[::-1]) == q(-2)
    for kind in ("f4", "f8"):
        assert total.fold(None, np.array([0.5, -2.25], kind)) == d(-1.75)
    with pytest.raises(TypeError, match="floats; add_int64 takes integers"):
        add.fold(None, np.array([1.0]))
    with pytest.raises(ValueError, match=r"operands\[1\] is more than an int64"):
        add.fold(None, np.array([1, 1 << 63], "u8"))


def test_arrow_numbers_are_operands() -> None:
    pa = pytest.importorskip("pyarrow")
    assert merge.AddInt64().fold(None, pa.array([1, 2], pa.int32())) == q(3)
    assert merge.AddFloat64().fold(None, pa.array([1.5, 2], pa.float32())) == d(3.5)
    with pytest.raises(ValueError, match=r"operands\[1\] is null"):
        merge.AddInt64().fold(None, pa.array([1, None]))


# --- What they refuse ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator", "operand", "message"),
    [
        (merge.AddInt64(), b"1234567", "has 7 bytes; add_int64 takes 8"),
        (merge.AddFloat64(), b"", "has 0 bytes; add_float64 takes 8"),
        (merge.MaxInt64(), b"123456789", "has 9 bytes; max_int64 takes 8"),
        (merge.MinInt64(), b"1", "has 1 bytes; min_int64 takes 8"),
        (merge.Latest(), b"1234567", "has 7 bytes; latest needs a time stamp of 8"),
        (STRUCT, b"12345678", "has 8 bytes; struct:28"),
    ],
    ids=str,
)
def test_operand_of_the_wrong_width_is_refused_by_name(
    operator: merge.Operator, operand: bytes, message: str
) -> None:
    good = bytes(STRUCT.dtype.itemsize if operator is STRUCT else 8)
    with pytest.raises(ValueError, match=r"operands\[1\]: operand " + message):
        operator.fold(None, [good, operand])
    with pytest.raises(lsmkit.CorruptionError, match="stored value cannot be merged"):
        operator.fold(operand, [good])


def test_bits_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="different lengths: 1 and 2 bytes"):
        merge.BitOr().fold(None, [b"a", b"ab"])
    with pytest.raises(ValueError, match="different lengths"):
        merge.BitOr().fold(b"abc", [b"ab"])


def test_no_operands_and_no_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="operands is empty"):
        merge.Append().fold(b"a", [])
    with pytest.raises(TypeError, match="str"):
        merge.Append().fold(None, ["a"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="made by the classes"):
        merge.Operator().fold(None, [b"a"])


# --- Records ---------------------------------------------------------------------------------


def test_struct_without_a_dtype_has_int64_fields_in_order() -> None:
    operator = merge.Struct(count="add", low="min", high="max")
    assert operator.dtype == np.dtype([("count", "<i8"), ("low", "<i8"), ("high", "<i8")])
    value = operator.fold(None, [q(1) + q(5) + q(5), q(1) + q(3) + q(3)])
    assert struct.unpack("<3q", value) == (2, 3, 5)


def test_struct_keeps_arrays_times_and_gaps() -> None:
    dtype = np.dtype(
        [("n", "u1"), ("when", "M8[us]"), ("bins", "<u4", (2, 2)), ("seen", "?")], align=True
    )
    operator = merge.Struct(dtype=dtype, n="add", when="max", bins="add", seen="or")
    rows = np.zeros(2, dtype)
    rows["n"] = 200
    rows["when"] = np.array(["2024-02-29", "2020-01-01"], "M8[us]")
    rows["bins"] = [[[1, 2], [3, 4]], [[10, 20], [30, 40]]]
    rows["seen"] = [False, True]
    value = np.frombuffer(operator.fold(None, [rows[0].tobytes(), rows[1].tobytes()]), dtype)[0]
    assert value["n"] == 144
    assert value["when"] == rows["when"][0]
    assert value["bins"].tolist() == [[11, 22], [33, 44]]
    assert value["seen"]
    assert operator.rules == {"n": "add", "when": "max", "bins": "add", "seen": "or"}
    assert operator.dtype.itemsize == dtype.itemsize


@pytest.mark.parametrize(
    ("dtype", "rules", "message"),
    [
        (None, {}, "needs a rule for each field"),
        (None, {"a": "mean"}, "a must be one of add, min"),
        (None, {"a b": "add"}, "called as a Python name is"),
        ("i8", {"a": "add"}, "structured dtype"),
        ([("a", "i8"), ("b", "i8")], {"a": "add"}, "'b' is only in one"),
        ([("a", "i8")], {"a": "add", "b": "add"}, "'b' is only in one"),
        ([("a", ">i8")], {"a": "add"}, "little-endian"),
        ([("a", "S8")], {"a": "add"}, "no layout"),
        ([("a", "f2")], {"a": "add"}, "no layout"),
        ([("a", "c16")], {"a": "add"}, "no layout"),
        ([("a", "f8")], {"a": "or"}, "no layout"),
        ([("a", "O")], {"a": "last"}, "no layout"),
    ],
    ids=str,
)
def test_struct_that_cannot_be_is_refused(dtype: Any, rules: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merge.Struct(dtype, **rules)


# --- Sketches --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 50, 5_000, 60_000])
@pytest.mark.parametrize("precision", [8, 14])
def test_estimate_is_within_four_standard_errors(precision: int, count: int) -> None:
    operator = merge.HyperLogLog(precision)
    elements = np.arange(count, dtype="i8")
    value = operator.fold(None, np.concatenate([elements, elements, np.zeros(1, "i8")]))
    error = 1.04 / math.sqrt(2**precision)
    assert abs(merge.HyperLogLog.estimate(value) - max(count, 1)) <= 4 * error * max(count, 1)


def test_sketches_of_parts_make_the_sketch_of_the_whole() -> None:
    operator = merge.HyperLogLog()
    elements = [b"%d" % i for i in range(9000)]
    parts = [operator.combine(elements[:10]), operator.combine(elements[5:8000])]
    whole = operator.fold(None, elements)
    assert operator.fold(parts[0], [parts[1], *elements[8000:]]) == whole
    assert len(operator.fold(None, elements[:10])) == 16 + 4 * 10


def test_sketch_of_another_precision_is_refused() -> None:
    value = merge.HyperLogLog(10).fold(None, [b"a"])
    with pytest.raises(ValueError, match="precision 10; this operator has 11"):
        merge.HyperLogLog(11).fold(None, [value])
    with pytest.raises(ValueError, match="not a HyperLogLog sketch"):
        merge.HyperLogLog.estimate(b"a")
    with pytest.raises(ValueError, match="from 4 to 18"):
        merge.HyperLogLog(19)


# --- Functions in Python ---------------------------------------------------------------------


def test_custom_function_is_called_from_oldest_to_newest() -> None:
    calls: list[tuple[bytes | None, bytes]] = []

    def fn(old: bytes | None, operand: bytes) -> bytes:
        calls.append((old, operand))
        return operand

    operator = merge.Custom("calls", fn)
    assert operator.fold(None, [b"1", b"2"]) == b"2"
    assert operator.fold(b"0", [b"3"]) == b"3"
    assert calls == [(None, b"1"), (b"1", b"2"), (b"0", b"3")]
    with pytest.raises(TypeError, match="custom:calls is not associative"):
        operator.combine([b"1"])


def test_exception_of_a_custom_function_arrives_as_it_was_raised() -> None:
    class Odd(Exception):
        pass

    def fn(old: bytes | None, operand: bytes) -> bytes:
        raise Odd(operand)

    operator = merge.Custom("odd", fn)
    for operand in (b"1", b"2"):
        with pytest.raises(Odd) as caught:
            operator.fold(None, [operand])
        assert caught.value.args == (operand,)
    with pytest.raises(TypeError, match="bytes-like"):
        merge.Custom("int", lambda old, operand: 5).fold(None, [b"1"])  # type: ignore[arg-type, return-value]
    assert merge.Custom("view", lambda old, operand: memoryview(operand)).fold(None, [b"1"]) == b"1"  # type: ignore[arg-type, return-value]


def test_exceptions_of_threads_do_not_meet() -> None:
    barrier = threading.Barrier(4)

    def fn(old: bytes | None, operand: bytes) -> bytes:
        barrier.wait(10)
        raise KeyError(operand)

    operator = merge.Custom("threads", fn)
    caught: dict[bytes, object] = {}

    def work(operand: bytes) -> None:
        try:
            operator.fold(None, [operand])
        except KeyError as error:
            caught[operand] = error.args[0]

    threads = [threading.Thread(target=work, args=(b"%d" % i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert caught == {b"%d" % i: b"%d" % i for i in range(4)}


def test_custom_name_is_checked() -> None:
    for name in ("", "a\nb", "x" * 256):
        with pytest.raises(ValueError, match="name must be 1 to 255 bytes"):
            merge.Custom(name, joined)
    with pytest.raises(TypeError, match="name must be a str"):
        merge.Custom(b"a", joined)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="fn must be a function"):
        merge.Custom("a", None)  # type: ignore[arg-type]


# --- Texts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "operator", [case[0] for case in CASES[:-1]] + [merge.HyperLogLog(9)], ids=str
)
def test_operator_comes_back_from_its_text_and_from_a_pickle(operator: merge.Operator) -> None:
    for again in (
        merge.operator_from_text(operator.text),
        pickle.loads(pickle.dumps(operator)),
    ):
        assert type(again) is type(operator)
        assert again == operator
        assert hash(again) == hash(operator)
        assert repr(again) == repr(operator)


def test_custom_comes_back_from_its_text_without_its_function() -> None:
    operator = merge.Custom("join", joined, associative=True)
    again = pickle.loads(pickle.dumps(operator))
    assert again.fold(None, [b"a", b"b"]) == again.combine([b"a", b"b"]) == b"ab"
    unbound = merge.operator_from_text(operator.text)
    assert unbound == operator
    assert isinstance(unbound, merge.Custom)
    assert (unbound.name, unbound.associative) == ("join", False)
    assert pickle.loads(pickle.dumps(unbound)) == operator
    with pytest.raises(lsmkit.OptionsError, match="called 'join': open it with"):
        unbound.fold(None, [b"a"])


def test_operators_differ_by_their_texts() -> None:
    assert merge.AddInt64() != merge.MaxInt64()
    assert merge.HyperLogLog(10) != merge.HyperLogLog(11)
    assert merge.Struct(a="add") != merge.Struct(b="add")
    assert merge.AddInt64() != "add_int64"
    for text in ("", "add", "custom", "struct:8:a,mean,i8,0,1", "hyperloglog:99"):
        with pytest.raises(ValueError, match=r"operator|name|layout|precision"):
            merge.operator_from_text(text)


def test_class_stands_for_an_operator_without_arguments() -> None:
    assert merge.operator_of(merge.AddInt64) == merge.AddInt64()
    assert merge.operator_of(merge.HyperLogLog) == merge.HyperLogLog(14)
    assert merge.operator_of(STRUCT) is STRUCT
    for given in ("add_int64", merge.Custom, merge.Struct, merge.Operator, None):
        with pytest.raises(TypeError, match="not an operator of"):
            merge.operator_of(given)  # type: ignore[arg-type]
