"""Encoded keys sort as the tuples of their parts do, and decode to them.

Method: properties by Hypothesis over tuples of all types, and encode_keys against encode_key.
"""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsmkit import decode_key, encode_key, encode_keys

np = pytest.importorskip("numpy")

INTS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False)
BYTES = st.binary(max_size=12) | st.lists(st.sampled_from(b"\0\1\xff"), max_size=6).map(bytes)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
PARTS = {
    int: INTS | st.integers(-3, 3),
    float: FLOATS | st.sampled_from([0.0, -0.0, math.inf, -math.inf, 5e-324]),
    bool: st.booleans(),
    str: TEXT | st.sampled_from(["", "\0"]),
    bytes: BYTES,
}


@st.composite
def tuples_of_same_types(draw, count):
    """The types, and `count` tuples of values of these types."""
    types = draw(st.lists(st.sampled_from(list(PARTS)), min_size=1, max_size=4))
    return types, [tuple(draw(PARTS[t]) for t in types) for _ in range(count)]


# --- One key ---------------------------------------------------------------------------------


@given(tuples_of_same_types(1))
def test_decoding_gives_the_parts_back(drawn):
    types, [parts] = drawn

    decoded = decode_key(encode_key(*parts), *types)

    assert decoded == parts
    assert [type(part) for part in decoded] == types


@given(tuples_of_same_types(2))
def test_keys_sort_as_tuples(drawn):
    _, [a, b] = drawn

    assert (encode_key(*a) < encode_key(*b)) == (a < b)
    assert (encode_key(*a) == encode_key(*b)) == (a == b)


@given(BYTES, INTS, BYTES)
def test_terminated_part_is_the_prefix_of_its_keys_alone(first, second, other):
    prefix = encode_key(first, b"")

    assert encode_key(first, second).startswith(prefix)
    assert encode_key(other, second).startswith(prefix) == (other == first)


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        ((), b""),
        ((0,), b"\x80" + bytes(7)),
        ((-1,), b"\x7f" + b"\xff" * 7),
        ((2**63 - 1,), b"\xff" * 8),
        ((1.0,), b"\xbf\xf0" + bytes(6)),
        ((-1.0,), b"\x40\x0f" + b"\xff" * 6),
        ((True, False), b"\1\0"),
        (("é",), b"\xc3\xa9"),
        ((b"a\0b", b"a\0b"), b"a\0\xffb\0\1a\0b"),
        (("a", 1), b"a\0\1\x80" + bytes(6) + b"\1"),
    ],
)
def test_encoding_is_this(parts, key):
    assert encode_key(*parts) == key


def test_all_nans_are_one_key_behind_infinity():
    [other_nan] = struct.unpack("<d", struct.pack("<Q", 0xFFF8_0000_0000_0001))

    assert encode_key(math.nan) == encode_key(-math.nan) == encode_key(other_nan)
    assert encode_key(math.nan) > encode_key(math.inf)
    assert math.isnan(decode_key(encode_key(math.nan), float)[0])


def test_negative_zero_is_zero():
    assert encode_key(-0.0) == encode_key(0.0)


def test_long_parts_are_whole():
    parts = (b"\0x" * 9000, b"y" * 20000)

    assert decode_key(encode_key(*parts), bytes, bytes) == parts


@pytest.mark.parametrize(
    "part",
    [np.int64(-5), np.uint8(5), np.float32(0.5), np.float64(0.5), np.bool_(True), np.str_("a"),
     np.bytes_(b"a"), bytearray(b"a"), memoryview(b"a")],
    ids=lambda part: type(part).__name__,
)  # fmt: skip
def test_numpy_scalars_and_buffers_are_parts(part):
    plain = part.item() if isinstance(part, np.generic) else bytes(part)

    assert encode_key(part, 1) == encode_key(plain, 1)


def test_time_stamp_is_an_int():
    assert encode_key(np.datetime64(7, "us")) == encode_key(7)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
def test_int_out_of_range_is_named(number):
    with pytest.raises(ValueError, match=rf"part 1 is {number}.*-2\*\*63"):
        encode_key("a", number)


@pytest.mark.parametrize("part", [None, (1,), 1j, object(), np.array([1, 2])], ids=repr)
def test_part_of_other_type_is_named(part):
    with pytest.raises(TypeError, match="part 1 is"):
        encode_key("a", part)


def test_key_too_long_is_refused():
    assert len(encode_key(bytes(65535))) == 65535
    with pytest.raises(ValueError, match="65535"):
        encode_key(bytes(65536))


def test_lone_surrogate_is_a_value_error():
    with pytest.raises(ValueError, match="surrogate"):
        encode_key("\ud800")


@pytest.mark.parametrize(
    ("key", "types", "message"),
    [
        (b"1234567", (int,), "part 0.*8 bytes are needed and 7"),
        (b"123456789", (int,), "1 bytes more"),
        (b"", (bool,), "part 0"),
        (b"\2", (bool,), "no bool"),
        (b"x", (), "1 bytes more"),
        (b"abc", (bytes, bytes), "not terminated"),
        (b"abc\0", (bytes, bytes), "not terminated"),
        (b"ab\0\2c", (bytes, bytes), "0x02 behind a zero"),
        (b"ab\0\0c\0\1", (bytes, bytes), "0x63 behind a zero"),
        (b"ab\0\0\xff\0\1", (bytes, bytes), "0xff behind a zero"),
        (b"\xff", (str,), "decode"),
    ],
)
def test_malformed_key_is_a_value_error(key, types, message):
    with pytest.raises(ValueError, match=message):
        decode_key(key, *types)


def test_decoding_into_another_type_is_a_type_error():
    with pytest.raises(TypeError, match="type 0 is <class 'list'>"):
        decode_key(b"", list)
    with pytest.raises(TypeError, match="key is str"):
        decode_key("a", str)


@given(st.binary(max_size=40), st.lists(st.sampled_from(list(PARTS)), max_size=4))
def test_any_bytes_decode_or_are_refused(key, types):
    try:
        parts = decode_key(key, *types)
    except ValueError:
        return
    assert len(parts) == len(types)


# --- Many keys -------------------------------------------------------------------------------

NUMBERS = ["i1", "<i2", ">i4", "i8", "u1", ">u2", "u4", "u8", ">i8", "f2", ">f4", "f8", "?"]


def numbers(dtype, rng, count):
    """Random elements with the extremes that fit a key."""
    raw = rng.bytes(count * np.dtype(dtype).itemsize)
    if dtype == "?":
        return rng.integers(0, 2, count).astype("?")
    array = np.frombuffer(raw, dtype).copy()
    if dtype == "u8":
        array >>= 1
    array[:2] = 0, 1
    return array


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("step", [1, 3, -1])
def test_rows_of_numbers_equal_single_keys(dtype, step):
    column = numbers(dtype, np.random.default_rng(1), 3000)[::step]

    keys = encode_keys(column, column)

    assert keys.dtype == np.uint8
    assert [row.tobytes() for row in keys] == [encode_key(x, x) for x in column.tolist()]


@pytest.mark.parametrize("dtype", ["M8[us]", "m8[s]", ">M8[ns]"])
def test_times_are_their_integers(dtype):
    raw = numbers("i8", np.random.default_rng(2), 50)

    keys = encode_keys(raw.astype(dtype))

    assert keys.tobytes() == encode_keys(raw).tobytes()


def test_rows_that_fill_the_width_equal_single_keys():
    names = np.array([b"abcd", b"wxyz", b"\xff\xff\1\2"])
    stamps = np.array([1, -2, 3])

    keys = encode_keys(names, stamps, names)

    assert [row.tobytes() for row in keys] == [
        encode_key(name, stamp, name)
        for name, stamp in zip(names.tolist(), stamps.tolist(), strict=True)
    ]


SHORT_ROW = st.lists(st.sampled_from(b"\1\2\xff"), max_size=4).map(bytes)


@given(st.lists(SHORT_ROW, min_size=1, max_size=30), st.randoms())
def test_short_rows_decode_and_sort_as_tuples(names, random):
    stamps = [random.randrange(-2, 3) for _ in names]

    keys = [row.tobytes() for row in encode_keys(np.array(names, "S4"), np.array(stamps))]

    rows = list(zip(names, stamps, strict=True))
    assert [decode_key(key, bytes, int) for key in keys] == rows
    assert [decode_key(key, bytes, int) for key in sorted(keys)] == sorted(rows)


def test_last_column_keeps_zero_bytes_and_filling():
    keys = encode_keys(np.array([1, 2]), np.array([b"a\0b", b"c"], "S4"))

    assert decode_key(keys[0].tobytes(), int, bytes) == (1, b"a\0b\0")
    assert decode_key(keys[1].tobytes(), int, bytes) == (2, b"c\0\0\0")


def test_zero_byte_inside_is_named_by_column_and_row():
    names = np.full(1200, b"abcd")
    names[1100] = b"a\0cd"

    with pytest.raises(ValueError, match=r"column 1, row 1100: .*zero byte"):
        encode_keys(np.arange(1200), names, np.arange(1200))


def test_unsigned_above_the_range_is_named():
    with pytest.raises(ValueError, match="column 0, row 1: 9223372036854775808"):
        encode_keys(np.array([2**63 - 1, 2**63], "u8"))


def test_no_rows_have_a_width():
    keys = encode_keys(np.empty(0, "i8"), np.empty(0, "S5"))

    assert keys.shape == (0, 13)


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ((), TypeError, "at least one"),
        ((np.arange(3), np.arange(4)), ValueError, "column 1 has 4 rows, and column 0 has 3"),
        ((np.zeros((2, 2)),), ValueError, "2 dimensions"),
        ((np.array(["a"]),), TypeError, "column 0 is of type <U1"),
        ((np.array([1j]),), TypeError, "complex"),
        ((np.array([None]),), TypeError, "object"),
        ((np.zeros(1, "S65536"),), ValueError, "65536 bytes"),
    ],
)
def test_wrong_columns_are_refused(columns, error, message):
    with pytest.raises(error, match=message):
        encode_keys(*columns)
