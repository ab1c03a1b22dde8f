"""`lsmkit load`: each format's rows become the right keys and values, and bad rows are named.

Every file is small and written by the test; what is stored is compared with what the file says,
byte for byte. Pieces of a file are made small where their borders are the point.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("click")
pytest.importorskip("rich")

import lsmkit
from lsmkit import cli
from lsmkit.cli import load as load_module
from lsmkit.cli import source as source_module
from lsmkit.cli.rows import open_rows
from lsmkit.cli.source import Source

CSV = b"id,name,score\n1,ann,2.5\n2,bob,-1\n3,cy,10\n"
CSV_ROWS = {b"1": b"1,ann,2.5", b"2": b"2,bob,-1", b"3": b"3,cy,10"}


class Loaded(NamedTuple):
    code: int
    out: bytes
    err: str
    rows: dict[bytes, bytes] | None

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def load(tmp_path, capfdbinary, monkeypatch):
    """Loads a file of this content into a new store, and reads that."""
    store = tmp_path / "store"

    def load(content: bytes | Path, *args: str, name: str = "rows.csv") -> Loaded:
        if name == "-":
            assert isinstance(content, bytes)
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
            path = "-"
        elif isinstance(content, bytes):
            path = str(tmp_path / name)
            Path(path).write_bytes(content)
        else:
            path = str(content)
        code = cli.main(["load", str(store), path, *args])
        out, err = capfdbinary.readouterr()
        rows = None
        if store.exists():
            with lsmkit.open(store, create_if_missing=False) as db:
                rows = dict(db.scan())
        return Loaded(code, out, err.decode(), rows)

    return load


def key_of(*parts: Any) -> bytes:
    return lsmkit.encode_key(*parts)


# ---- formats ----


def test_csv_row_is_stored_as_it_stood(load):
    result = load(CSV, "--key", "id")
    assert result.code == 0
    assert result.rows == CSV_ROWS
    assert result.out.startswith(b"3 rows (")


@pytest.mark.parametrize(
    "content",
    [
        CSV[:-1],
        CSV.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + CSV,
        CSV.replace(b"\n2", b"\n\n\r\n2"),
        CSV + b"\n\n",
    ],
    ids=["no last newline", "crlf", "byte order mark", "empty lines", "empty lines at the end"],
)
def test_csv_may_end_its_lines_in_any_way(load, content):
    result = load(content, "--key", "id")
    assert (result.code, result.err) == (0, "")
    assert result.rows == CSV_ROWS


def test_value_column_is_stored_alone(load):
    assert load(CSV, "--key", "name", "--value", "score").rows == {
        b"ann": b"2.5",
        b"bob": b"-1",
        b"cy": b"10",
    }


def test_last_of_equal_keys_stays(load):
    result = load(b"k,v\na,1\nb,2\na,3\n", "--key", "k", "--value", "v", "--json")
    assert result.rows == {b"a": b"3", b"b": b"2"}
    assert result.json["rows"] == 3


def test_quoted_fields_hold_separators_quotes_and_newlines(load):
    content = b'id,text\n"1","a,b"\n2,"say ""hi"""\n3,"two\nlines"\n4,in"side\n'
    assert load(content, "--key", "id").rows == {
        b"1": b'"1","a,b"',
        b"2": b'2,"say ""hi"""',
        b"3": b'3,"two\nlines"',
        b"4": b'4,in"side',
    }
    assert load(content, "--key", "id", "--value", "text").rows == {
        b"1": b"a,b",
        b"2": b'say "hi"',
        b"3": b"two\nlines",
        b"4": b'in"side',
    }


def test_bytes_of_any_encoding_are_kept(load):
    content = b"id,name\n\xe9,M\xfcller\n\xff\x00,\x80\n"
    assert load(content, "--key", "id").rows == {
        b"\xe9": b"\xe9,M\xfcller",
        b"\xff\x00": b"\xff\x00,\x80",
    }


def test_tsv_separates_by_tabs(load):
    content = b"id\tname\n1\ta,b\n2\tc\n"
    assert load(content, "--key", "name", name="rows.tsv").rows == {
        b"a,b": b"1\ta,b",
        b"c": b"2\tc",
    }


def test_no_quotes_takes_a_quote_as_a_character(load):
    content = b'id\ttitle\n1\t"Heroes\n2\t"b"\n'
    result = load(content, "--key", "id", "--value", "title", "--no-quotes", name="rows.tsv")
    assert result.rows == {b"1": b'"Heroes', b"2": b'"b"'}


def test_no_header_numbers_the_columns(load):
    result = load(b"1,ann\n2,bob\n", "--key", "2", "--value", "1", "--no-header")
    assert result.rows == {b"ann": b"1", b"bob": b"2"}


def test_json_line_is_stored_as_it_stood(load):
    content = b'{"id": 7, "x": [1, 2]}\n\n{"id":"k\\u00e9", "x": null}\r\n{"id": true}'
    assert load(content, "--key", "id", name="rows.jsonl").rows == {
        b"7": b'{"id": 7, "x": [1, 2]}',
        "ké".encode(): b'{"id":"k\\u00e9", "x": null}',
        b"true": b'{"id": true}',
    }


def test_json_value_is_its_text_or_json(load):
    content = b'{"k": "a", "v": "text"}\n{"k": "b", "v": {"n": [1, null]}}\n{"k": "c", "v": 1.5}\n'
    assert load(content, "--key", "k", "--value", "v", name="rows.ndjson").rows == {
        b"a": b"text",
        b"b": b'{"n":[1,null]}',
        b"c": b"1.5",
    }


@pytest.fixture
def parquet(tmp_path) -> Path:
    pa = pytest.importorskip("pyarrow")
    import datetime

    import pyarrow.parquet as pq

    when = datetime.datetime(2013, 1, 1, 5, 15)
    table = pa.table(
        {
            "id": pa.array([1, 2, 3], pa.int32()),
            "name": ["ann", "bøb", None],
            "raw": pa.array([b"ok", b"\xff\x00", None]),
            "score": [1.5, float("nan"), None],
            "at": [when, when, None],
        }
    )
    path = tmp_path / "rows.parquet"
    pq.write_table(table, path)
    return path


def test_parquet_row_is_a_json_object(load, parquet):
    rows = load(parquet, "--key", "id").rows
    assert {key: json.loads(value) for key, value in rows.items()} == {
        b"1": {"id": 1, "name": "ann", "raw": "ok", "score": 1.5, "at": "2013-01-01T05:15:00"},
        b"2": {
            "id": 2,
            "name": "bøb",
            "raw": {"base64": "/wA="},
            "score": None,
            "at": "2013-01-01T05:15:00",
        },
        b"3": {"id": 3, "name": None, "raw": None, "score": None, "at": None},
    }


def test_parquet_binary_value_is_its_bytes(load, parquet):
    result = load(parquet, "--key", "id:int", "--value", "raw")
    assert result.rows == {key_of(1): b"ok", key_of(2): b"\xff\x00", key_of(3): b"null"}


def test_parquet_null_in_a_key_is_a_bad_row(load, parquet):
    result = load(parquet, "--key", "name", "--on-error", "skip", "--json")
    assert result.code == 0
    assert result.json["bad"] == [{"line": 3, "reason": "column 'name' holds null"}]
    assert set(result.rows) == {b"ann", "bøb".encode()}


def test_parquet_comes_through_a_pipe_too(load, parquet):
    content = parquet.read_bytes()
    result = load(content, "--key", "id", "--format", "parquet", name="-")
    assert result.code == 0
    assert len(result.rows) == 3


def test_file_that_is_no_parquet_is_named(load):
    pytest.importorskip("pyarrow")
    result = load(b"PAR1 not really", "--key", "id", name="x.parquet")
    assert result.code == 2
    assert "x.parquet" in result.err
    assert result.err.count("\n") == 1
    assert result.rows is None


def test_pairs_are_read_as_scan_prints_them(load):
    content = b"a\\tb\tv\\\\1\n\\xff\t\n\tempty key\n"
    result = load(content, name="dump.pairs")
    assert result.rows == {b"a\tb": b"v\\1", b"\xff": b"", b"": b"empty key"}


@pytest.mark.parametrize(
    ("ending", "compress"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)],
)
def test_compressed_file_is_read_through(load, ending, compress):
    result = load(compress(CSV), "--key", "id", name="rows.csv" + ending)
    assert (result.code, result.rows) == (0, CSV_ROWS)


def test_zstandard_is_read_through_where_it_is(load):
    zstandard = pytest.importorskip("zstandard")
    # Two frames, as parallel compressors write.
    content = b"".join(map(zstandard.ZstdCompressor().compress, (CSV[:20], CSV[20:])))
    result = load(content, "--key", "id", name="rows.csv.zst")
    assert (result.code, result.rows) == (0, CSV_ROWS)


def test_zstandard_where_it_is_not_says_what_to_install(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "compression", None)
    result = load(b"", "--key", "id", name="rows.csv.zst")
    assert result.code == 2
    assert "zstandard" in result.err


@pytest.mark.parametrize(
    "content", [gzip.compress(CSV)[:-12], b"plain text", gzip.compress(CSV)[:-8] + b"12345678"]
)
def test_damaged_compression_is_told_as_such(load, content):
    result = load(content, "--key", "id", name="rows.csv.gz")
    assert result.code == 2
    assert "rows.csv.gz: the compressed data is damaged" in result.err
    assert result.err.count("\n") == 1


def test_rows_come_from_stdin(load):
    result = load(CSV, "--key", "id", "--format", "csv", name="-")
    assert (result.code, result.rows) == (0, CSV_ROWS)


# ---- keys ----


def test_several_columns_are_an_encoded_key(load):
    content = b"tail,time,n\nN1,12,x\nN1,5,y\n,7,z\n"
    rows = load(content, "--key", "tail,time", "--value", "n").rows
    assert rows == {key_of("N1", "12"): b"x", key_of("N1", "5"): b"y", key_of("", "7"): b"z"}


def test_named_type_makes_a_part_sort_as_such(load):
    content = b"tail,time,n\nN1,12,x\nN1,5,y\nN1,-7,z\n"
    result = load(content, "--key", "tail,time:int", "--value", "n")
    assert result.rows == {key_of("N1", 12): b"x", key_of("N1", 5): b"y", key_of("N1", -7): b"z"}
    assert list(result.rows.values()) == [b"z", b"y", b"x"]


@pytest.mark.parametrize(
    ("kind", "text", "part"),
    [
        ("int", b"-9223372036854775808", -(2**63)),
        ("int", b"+007", 7),
        ("float", b"-1.5e3", -1500.0),
        ("bool", b"True", True),
        ("bool", b"0", False),
        ("str", b"x", "x"),
        ("bytes", b"x", b"x"),
    ],
)
def test_each_type_reads_its_text(load, kind, text, part):
    rows = load(b"k,v\n" + text + b",1\n", "--key", f"v:int,k:{kind}", "--value", "v").rows
    assert rows == {key_of(1, part): b"1"}


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("int", b"1.0", "not an integer"),
        ("int", b"", "not an integer"),
        ("int", b"1_000", "not an integer"),
        ("int", b"9223372036854775808", "more than 64 bits"),
        ("int", b"9" * 10_000, "more than 64 bits"),
        ("float", b"1_0", "not a number"),
        ("float", b"abc", "not a number"),
        ("bool", b"yes", "neither true nor false"),
    ],
)
def test_text_that_is_not_of_its_type_is_a_bad_row(load, kind, text, reason):
    result = load(b"a,k\nx,1\ny," + text + b"\n", "--key", f"a,k:{kind}")
    assert result.code == 2
    assert "rows.csv:3: column 'k' holds" in result.err
    assert reason in result.err
    assert result.rows == {}


def test_same_data_gives_the_same_keys_in_every_format(load, tmp_path):
    as_csv = load(b"a,b\nx,5\ny,-6\n", "--key", "a,b:int").rows
    lines = b'{"a": "x", "b": 5}\n{"a": "y", "b": "-6"}\n'
    as_json = load(lines, "--key", "a,b:int", name="rows.jsonl").rows
    assert set(as_csv) == set(as_json) == {key_of("x", 5), key_of("y", -6)}


def test_column_whose_name_ends_like_a_type_is_that_column(load):
    assert load(b"a:int,b\nx,1\n", "--key", "a:int", "--value", "b").rows == {b"x": b"1"}


def test_column_names_with_commas_are_quoted(load):
    content = b'"last, first",b\nx,1\n'
    assert load(content, "--key", '"last, first",b', "--value", "b").rows == {
        key_of("x", "1"): b"1"
    }


def test_key_may_be_given_in_several_options(load):
    assert set(load(b"a,b\nx,1\n", "--key", "b:int", "--key", "a").rows) == {key_of(1, "x")}


def test_key_that_is_too_long_is_a_bad_row(load):
    content = b"a,b\nx,1\n" + b"k" * 65_536 + b",2\n" + b"k" * 65_535 + b",3\n"
    result = load(content, "--key", "a", "--value", "b", "--on-error", "skip")
    assert result.rows == {b"x": b"1", b"k" * 65_535: b"3"}
    assert "rows.csv:3: the key has 65,536 bytes" in result.err


# ---- bad rows ----

BAD = b'id,name\n1,a\n2\n3,c,d\n4,"d\ne"\n5,"x"y\n6,f\n'


def test_stop_names_file_and_line_and_stores_nothing_of_the_batch(load, tmp_path):
    result = load(BAD, "--key", "id")
    assert result.code == 2
    assert result.err == (
        f"lsmkit: {tmp_path / 'rows.csv'}:3: 1 fields where there are 2 columns "
        "(0 rows were stored before)\n"
    )
    assert result.rows == {}


def test_stop_keeps_the_batches_before(load):
    content = b"id\n" + b"".join(b"%d\n" % n for n in range(25)) + b"a,b\n"
    content += b"".join(b"%d\n" % n for n in range(25, 99))
    result = load(content, "--key", "id", "--batch", "10", "--json")
    assert result.code == 2
    assert result.json["rows"] == 20
    assert result.json["bad"] == [{"line": 27, "reason": "2 fields where there are 1 columns"}]
    assert ":27: " in result.json["error"]
    assert "(20 rows were stored before)" in result.err
    assert set(result.rows) == {b"%d" % n for n in range(20)}


def test_skip_counts_bad_rows_and_stores_the_others(load):
    result = load(BAD, "--key", "id", "--on-error", "skip", "--json")
    assert result.code == 0
    assert result.rows == {b"1": b"1,a", b"4": b'4,"d\ne"', b"6": b"6,f"}
    assert result.json["rows"] == 3
    assert result.json["skipped"] == 3
    assert [bad["line"] for bad in result.json["bad"]] == [3, 4, 7]
    assert result.err.count("rows.csv:") == 3


def test_skip_lists_the_first_bad_rows_only(load):
    content = b"id,x\n" + b"bad\n" * 25 + b"1,2\n"
    result = load(content, "--key", "id", "--on-error", "skip")
    assert result.code == 0
    assert result.rows == {b"1": b"1,2"}
    assert result.err.count("fields where there are") == 10
    assert "and 15 more bad rows" in result.err
    assert b"25 bad rows left out" in result.out


def test_lines_are_counted_behind_a_header_of_several(load):
    result = load(b'\n"id","two\nlines"\n1,a\nbad\n', "--key", "id", "--json")
    assert result.code == 2
    assert result.json["bad"][0]["line"] == 5


def test_quote_that_is_never_closed_costs_its_own_row(load):
    content = b'id,name\n1,a\n2,"open\n3,c\n4,d\n'
    result = load(content, "--key", "id", "--on-error", "skip", "--json")
    assert result.rows == {b"1": b"1,a", b"3": b"3,c", b"4": b"4,d"}
    assert result.json["bad"] == [{"line": 3, "reason": "a quote that begins here is never closed"}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "no JSON"),
        (b"[1]", "no JSON object"),
        (b'{"x": 1}', "no column 'id'"),
        (b'{"id": null}', "column 'id' holds null"),
        (b'{"id": [1]}', "column 'id' holds no single value"),
        (b'{"id": "\\ud800"}', "text that UTF-8 cannot write"),
        (b'{"id": "\xff"}', "not UTF-8 at byte 8"),
        (b'{"id": ' + b"[" * 100_000, "no JSON"),
    ],
)
def test_bad_json_line_is_named_with_its_reason(load, line, reason):
    result = load(b'{"id": 1}\n' + line + b"\n", "--key", "id", name="rows.jsonl")
    assert result.code == 2
    assert "rows.jsonl:2: " in result.err
    assert reason in result.err


def test_bad_pair_is_named_with_its_reason(load):
    result = load(b"a\tb\nnotab\nc\t\\q\n", "--on-error", "skip", name="x.pairs")
    assert result.rows == {b"a": b"b"}
    assert "x.pairs:2: no tab between a key and a value" in result.err
    assert "x.pairs:3: no such escape" in result.err


def test_file_that_breaks_off_says_how_many_rows_are_stored(load):
    rows = b"".join(b"%d,%s\n" % (n, os.urandom(20).hex().encode()) for n in range(60_000))
    whole = gzip.compress(b"id,x\n" + rows, compresslevel=1)
    result = load(whole[: len(whole) // 2], "--key", "id", "--json", name="rows.csv.gz")
    assert result.code == 2
    assert result.json["rows"] == len(result.rows) > 0
    assert result.json["rows"] % 5000 == 0
    assert "damaged" in result.json["error"]


# ---- usage ----


@pytest.mark.parametrize(
    ("args", "name", "words"),
    [
        ((), "rows.csv", "--key is needed"),
        (("--key", "nope"), "rows.csv", "no column 'nope'; there are id, name, score"),
        (("--key", "id", "--value", "v"), "rows.csv", "no column 'v'"),
        (("--key", "id"), "rows.dat", "the name tells no format"),
        (("--key", "id"), "-", "standard input: the name tells no format"),
        (("--key", "id", "--batch", "0"), "rows.csv", "--batch"),
        (("--key", "id"), "rows.pairs", "--key and --value say nothing"),
        (("--key", "id", "--format", "xml"), "rows.csv", "xml"),
    ],
)
def test_wrong_usage_makes_no_store(load, args, name, words):
    result = load(CSV, *args, name=name)
    assert result.code == 2
    assert words in result.err
    assert result.err.count("\n") == 1
    assert result.rows is None


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_empty_file_is_an_error_and_makes_no_store(load, content):
    result = load(content, "--key", "id")
    assert result.code == 2
    assert "there is no row in it" in result.err
    assert result.rows is None


def test_header_alone_is_no_rows(load):
    result = load(b"id,name\n", "--key", "id", "--json")
    assert (result.code, result.rows, result.json["rows"]) == (0, {}, 0)


def test_two_columns_of_one_name_are_told(load):
    result = load(b"id,x,x\n1,2,3\n", "--key", "x")
    assert result.code == 2
    assert "2 columns are called 'x'" in result.err


def test_missing_file_is_named(load, tmp_path):
    result = load(tmp_path / "absent.csv", "--key", "id")
    assert result.code == 2
    assert "absent.csv: No such file" in result.err
    assert result.rows is None


# ---- pieces, progress, memory ----

FIELDS = st.text(alphabet='ab",\n\r\té', max_size=6)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(FIELDS, FIELDS), max_size=12), data=st.data())
def test_pieces_of_any_size_give_the_rows_that_csv_gives(tmp_path, monkeypatch, rows, data):
    """What the csv module writes, in pieces down to one byte, is what comes out."""
    text = io.StringIO(newline="")
    # Without quotes the csv module writes a bare carriage return that it cannot read again.
    newline, quoting = data.draw(
        st.sampled_from(
            [("\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_MINIMAL)]
        )
    )
    writer = csv.writer(text, lineterminator=newline, quoting=quoting)
    writer.writerows([("k", "v"), *rows])
    path = tmp_path / "rows.csv"
    path.write_bytes(text.getvalue().encode())
    with monkeypatch.context() as patch, Source(str(path)) as source:
        patch.setattr(source_module, "BLOCK_BYTES", data.draw(st.integers(1, 40)))
        found = []
        for chunk in open_rows(source, "csv", ["k"], "v"):
            assert not chunk.bad
            found += zip(chunk.keys, chunk.values, strict=True)
    assert found == [(key.encode(), value.encode()) for key, value in rows]


@pytest.mark.parametrize("size", [1, 7, 30, 1 << 20])
def test_bad_rows_have_their_line_in_pieces_of_any_size(tmp_path, monkeypatch, size):
    monkeypatch.setattr(source_module, "BLOCK_BYTES", size)
    path = tmp_path / "rows.csv"
    path.write_bytes(BAD + b"\n8,h\nbad\n" + b'9,"i\n\n"\nworse\n')
    with Source(str(path)) as source:
        chunks = list(open_rows(source, "csv", ["id"], None))
    assert [bad.line for chunk in chunks for bad in chunk.bad] == [3, 4, 7, 11, 15]
    assert [key for chunk in chunks for key in chunk.keys] == [b"1", b"4", b"6", b"8", b"9"]


def test_line_without_an_end_is_refused_in_bounded_memory(load, monkeypatch):
    monkeypatch.setattr(source_module, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(source_module, "ROW_BYTES_MAX", 10_000)
    result = load(b"{" + b"x" * 100_000, "--key", "id", name="rows.jsonl")
    assert result.code == 2
    assert "a line of more than" in result.err


class CountingStore:
    """Notes the rows of each batch, and 0 for a sync."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def put_many(self, keys: list[bytes], values: list[bytes]) -> None:
        assert len(keys) == len(values)
        self.sizes.append(len(keys))

    def sync(self) -> None:
        self.sizes.append(0)


def test_batches_have_the_size_asked_for(tmp_path):
    store = CountingStore()
    path = tmp_path / "rows.csv"
    path.write_bytes(b"id\n" + b"".join(b"%d\n" % n for n in range(2345)))
    with Source(str(path)) as source:
        loader = load_module.Loader(store, 1000, source, "stop")
        loader.run(open_rows(source, "csv", ["id"], None))
    assert store.sizes == [1000, 1000, 345, 0]
    assert loader.stored == 2345


def test_batch_of_long_rows_ends_early(tmp_path, monkeypatch):
    monkeypatch.setattr(source_module, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(load_module, "BATCH_BYTES", 5000)
    store = CountingStore()
    path = tmp_path / "rows.csv"
    path.write_bytes(b"id\n" + b"".join(b"%099d\n" % n for n in range(200)))
    with Source(str(path)) as source:
        loader = load_module.Loader(store, 1000, source, "stop")
        loader.run(open_rows(source, "csv", ["id"], None))
    assert sum(store.sizes) == loader.stored == 200
    assert max(store.sizes) <= 60


def test_pipe_gets_plain_lines_of_progress(load, monkeypatch):
    monkeypatch.setattr(load_module, "PLAIN_SECONDS", 0.0)
    monkeypatch.setattr(source_module, "BLOCK_BYTES", 10)
    result = load(CSV, "--key", "id", "--batch", "1")
    assert result.code == 0
    lines = result.err.splitlines()
    assert len(lines) > 1
    assert all(line.endswith("% of the file") for line in lines)
    assert "rows.csv: 3 rows, 100% of the file" in lines[-1]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo terminal")
def test_terminal_gets_a_bar(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(CSV)
    master, slave = os.openpty()
    command = [sys.executable, "-m", "lsmkit", "load", tmp_path / "s", path, "--key", "id"]
    try:
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=slave, timeout=60, env=environment
        )
        shown = os.read(master, 65_536)
    finally:
        os.close(slave)
        os.close(master)
    assert done.returncode == 0
    assert done.stdout.startswith(b"3 rows")
    assert b"3 rows" in shown
    assert "━".encode() in shown
