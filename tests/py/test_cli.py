"""The command line: what each command prints, where it prints it, and the code it exits with.

Commands run in this process through `lsmkit.cli.main`, with stdout and stderr captured as bytes;
those whose exit, pipe or terminal is the point run as `python -m lsmkit`.
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("click")
pytest.importorskip("rich")

import lsmkit
from lsmkit import cli
from lsmkit.cli.form import escape, unescape

BINARY = b"\x00\xff\ttab\nline\\end"
BINARY_ESCAPED = r"\x00\xff\ttab\nline\\end"


class Result(NamedTuple):
    code: int
    out: bytes
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def run(capfdbinary, monkeypatch):
    """Runs a command in this process."""

    def run(*args: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = cli.main([str(arg) for arg in args])
        out, err = capfdbinary.readouterr()
        return Result(code, out, err.decode())

    return run


@pytest.fixture
def store(tmp_path) -> str:
    """A store that holds five fruits and one pair of bytes that no terminal prints."""
    path = str(tmp_path / "store")
    with lsmkit.open(path) as db:
        for fruit in ("apple", "apricot", "banana", "cherry", "date"):
            db.put(fruit.encode(), fruit.upper().encode())
        db.put(BINARY, BINARY)
    return path


def python_m(*args: str | bytes, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "lsmkit", *args]
    return subprocess.run(command, capture_output=True, timeout=60, **options)


def value_of(path: str, key: bytes) -> bytes | None:
    with lsmkit.open(path, create_if_missing=False) as db:
        return db.get(key)


def one_line(result: Result) -> str:
    """The error that a command ends with: one line, no traceback."""
    assert result.err.count("\n") == 1, result.err
    assert "Traceback" not in result.err
    return result.err


# ---- forms of keys and values ----


@given(st.binary(max_size=200))
def test_escaped_form_is_read_back_and_stays_on_its_line(data):
    text = escape(data)
    assert text.isprintable()
    assert unescape(text.encode()) == data


@given(st.text(max_size=50))
def test_printable_text_is_its_own_escaped_form(text):
    if text.isprintable() and "\\" not in text and not any("\ud800" <= c <= "\udfff" for c in text):
        assert escape(text.encode()) == text


@pytest.mark.parametrize("text", [b"\\", b"a\\q", b"\\x1", b"\\xzz"])
def test_backslash_that_begins_no_escape_is_refused(text):
    with pytest.raises(ValueError, match="no such escape at byte"):
        unescape(text)


# ---- get, put, delete ----


def test_get_writes_the_bytes_and_nothing_behind_them(run, store):
    assert run("get", store, "apple") == (0, b"APPLE", "")


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("--escape", BINARY_ESCAPED),
        ("--hex", BINARY.hex()),
        ("--base64", base64.b64encode(BINARY).decode()),
    ],
)
def test_get_and_put_take_and_print_every_form(run, store, tmp_path, form, text):
    assert run("get", store, text, form) == (0, text.encode() + b"\n", "")
    other = str(tmp_path / "other")
    assert run("put", other, text, text, form) == (0, b"", "")
    assert value_of(other, BINARY) == BINARY


def test_get_of_a_missing_key_exits_with_1_and_names_it(run, store):
    result = run("get", store, "elderberry")
    assert (result.code, result.out) == (1, b"")
    assert "elderberry" in one_line(result)
    assert store in result.err


def test_get_json_tells_key_and_value(run, store):
    assert run("get", store, "apple", "--json").json == {"key": "apple", "value": "APPLE"}
    encoded = base64.b64encode(BINARY).decode()
    result = run("get", store, BINARY_ESCAPED, "--escape", "--json")
    assert result.json == {"key_base64": encoded, "value_base64": encoded}
    missing = run("get", store, "fig", "--json")
    assert (missing.code, missing.json) == (1, {"key": "fig", "value": None})


def test_put_reads_the_value_from_stdin_byte_for_byte(run, store):
    assert run("put", store, "apple", "-", stdin=BINARY).code == 0
    assert value_of(store, b"apple") == BINARY
    assert run("put", store, "61", "-", "--hex", stdin=b"not hex").code == 0
    assert value_of(store, b"a") == b"not hex"


def test_put_makes_the_store_and_says_so_in_json(run, tmp_path):
    path = str(tmp_path / "new")
    assert run("put", path, "k", "value", "--json").json == {"key": "k", "value_bytes": 5}
    assert value_of(path, b"k") == b"value"


def test_arguments_that_are_no_utf8_reach_the_store_as_they_are(store):
    assert python_m("put", store, b"k\xff\xfe", b"v\x80").returncode == 0
    assert value_of(store, b"k\xff\xfe") == b"v\x80"
    assert python_m("get", store, b"k\xff\xfe").stdout == b"v\x80"


def test_value_that_looks_like_an_option_stands_behind_two_dashes(run, store):
    assert run("put", store, "--", "low", "-5").code == 0
    assert value_of(store, b"low") == b"-5"


def test_delete_takes_several_keys_and_absent_ones(run, store):
    result = run("delete", store, "apple", "nothing", "date", "--json")
    assert result.code == 0
    assert result.json == {"deleted": [{"key": "apple"}, {"key": "nothing"}, {"key": "date"}]}
    assert value_of(store, b"apple") is None
    assert value_of(store, b"date") is None
    assert value_of(store, b"banana") == b"BANANA"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("get", "STORE", "0", "--hex"), "KEY is not in hex form"),
        (("get", "STORE", "?", "--base64"), "KEY is not in base64 form"),
        (("get", "STORE", "\\q", "--escape"), "KEY is not in escape form"),
        (("put", "STORE", "61", "xyz", "--hex"), "VALUE is not in hex form"),
        (("scan", "STORE", "--start", "0", "--hex"), "--start is not in hex form"),
    ],
)
def test_what_is_not_in_the_form_asked_for_is_named(run, store, args, words):
    result = run(*(store if arg == "STORE" else arg for arg in args))
    assert result.code == 2
    assert words in one_line(result)


# ---- keys of several parts ----


@pytest.fixture
def flights(tmp_path) -> str:
    path = str(tmp_path / "flights")
    with lsmkit.open(path) as db:
        for parts in (("N1", -5), ("N1", 7), ("N12", 1), ("a,b\t", 2)):
            db.put(lsmkit.encode_key(*parts), str(parts[1]).encode())
    return path


def test_key_types_show_and_take_keys_of_parts(run, flights):
    scanned = run("scan", flights, "--key-types", "str,int")
    assert scanned.out.decode() == "N1,-5\t-5\nN1,7\t7\nN12,1\t1\na\\x2cb\\t,2\t2\n"
    assert run("get", flights, "N1,7", "--key-types", "str,int").out == b"7"
    assert run("get", flights, r"a\x2cb\t,2", "--key-types", "str,int").out == b"2"
    assert run("scan", flights, "--keys-only", "--json", "--key-types", "str,int").rows == [
        {"key": ["N1", -5]},
        {"key": ["N1", 7]},
        {"key": ["N12", 1]},
        {"key": ["a,b\t", 2]},
    ]


def test_prefix_of_parts_ends_with_its_last_part(run, flights):
    found = run("scan", flights, "--prefix", "N1", "--key-types", "str,int", "--keys-only")
    assert found.out == b"N1,-5\nN1,7\n"
    bounded = run("scan", flights, "--start", "N1,0", "--stop", "N2", "--key-types", "str,int")
    assert bounded.out == b"N1,7\t7\nN12,1\t1\n"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("get", "STORE", "N1", "--key-types", "str,int"), "KEY has 1 parts"),
        (("get", "STORE", "N1,x", "--key-types", "str,int"), "part 2 of KEY, 'x', is no int"),
        (("get", "STORE", "N1,1,2", "--key-types", "str,int"), "KEY has 3 parts"),
        (("get", "STORE", "N1", "--key-types", "text"), "'text' is none of"),
        (("scan", "STORE", "--key-types", "int,int"), "is not int,int"),
    ],
)
def test_keys_of_other_parts_are_refused_by_name(run, flights, args, words):
    result = run(*(flights if arg == "STORE" else arg for arg in args))
    assert result.code == 2
    assert words in one_line(result)


# ---- scan ----


def test_scan_prints_key_tab_value_in_key_order(run, store):
    result = run("scan", store)
    assert result.code == 0
    assert result.out.decode().splitlines() == [
        f"{BINARY_ESCAPED}\t{BINARY_ESCAPED}",
        "apple\tAPPLE",
        "apricot\tAPRICOT",
        "banana\tBANANA",
        "cherry\tCHERRY",
        "date\tDATE",
    ]


@pytest.mark.parametrize(
    ("args", "keys"),
    [
        (("--prefix", "ap"), "apple apricot"),
        (("--start", "apricot", "--stop", "date"), "apricot banana cherry"),
        (("--start", "b", "--limit", "2"), "banana cherry"),
        (("--start", "a", "--reverse"), "date cherry banana apricot apple"),
        (("--prefix", "ap", "--reverse", "--limit", "1"), "apricot"),
        (("--prefix", "zz"), ""),
        (("--limit", "0"), ""),
        (("--hex", "--prefix", "6170"), "6170706c65 61707269636f74"),
    ],
)
def test_scan_narrows_the_range(run, store, args, keys):
    result = run("scan", store, "--keys-only", *args)
    assert result.code == 0
    assert result.out.decode().split() == keys.split()


def test_scan_json_is_an_object_a_line(run, store):
    encoded = base64.b64encode(BINARY).decode()
    rows = run("scan", store, "--json", "--limit", "2").rows
    assert rows == [
        {"key_base64": encoded, "value_base64": encoded},
        {"key": "apple", "value": "APPLE"},
    ]
    assert run("scan", store, "--json", "--keys-only", "--prefix", "d").rows == [{"key": "date"}]
    assert run("scan", store, "--json", "--hex", "--prefix", "64").rows == [
        {"key": "64617465", "value": "44415445"}
    ]


def test_scan_takes_prefix_or_bounds(run, store):
    result = run("scan", store, "--prefix", "a", "--stop", "b")
    assert result.code == 2
    assert "--prefix goes without" in one_line(result)


def test_lines_of_scan_load_into_an_equal_store(run, store, tmp_path):
    copy = str(tmp_path / "copy")
    lines = run("scan", store).out
    assert run("load", copy, "-", "--format", "pairs", stdin=lines).code == 0
    assert run("scan", copy).out == lines
    assert value_of(copy, BINARY) == BINARY


def test_reader_that_goes_away_is_no_error(store):
    with lsmkit.open(store) as db:
        db.put_many([b"%07d" % n for n in range(50_000)], [b"v" * 50] * 50_000)
    command = [sys.executable, "-m", "lsmkit", "scan", store]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as scan:
        assert scan.stdout is not None
        assert scan.stderr is not None
        scan.stdout.readline()
        scan.stdout.close()
        assert scan.stderr.read() == b""
        assert scan.wait(60) == 141


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo terminal")
def test_get_ends_the_line_on_a_terminal_only(store):
    master, slave = os.openpty()
    try:
        command = [sys.executable, "-m", "lsmkit", "get", store, "apple"]
        subprocess.run(command, stdout=slave, check=True, timeout=60)
        assert os.read(master, 100) == b"APPLE\r\n"
    finally:
        os.close(slave)
        os.close(master)
    assert python_m("get", store, "apple").stdout == b"APPLE"


# ---- stats, verify, compact, dump ----


def test_stats_are_the_library_s(run, store):
    with lsmkit.open(store, read_only=True) as db:
        fields = set(db.stats().to_dict())
    result = run("stats", store, "--json")
    assert result.code == 0
    assert set(result.json) == fields
    text = run("stats", store)
    assert text.code == 0
    assert len(text.out) > 20


def test_verify_reports_a_sound_store(run, store):
    result = run("verify", store, "--json")
    assert result.code == 0
    report = result.json
    assert report["ok"] is True
    assert report["errors"] == []
    counts = {"files", "blocks", "rows", "values", "range_tombstones", "bytes"}
    assert set(report) == {"ok", "errors"} | counts
    assert run("verify", store).out.endswith(b"no damage\n")


def damage_a_table(store: str) -> str:
    """Changes one byte in the middle of a table, and returns the table's name."""
    with lsmkit.open(store) as db:
        db.put_many([b"k%05d" % n for n in range(5000)], [os.urandom(40) for _ in range(5000)])
        db.flush()
        db.compact()
    table = max(Path(store).glob("*.sst"), key=lambda path: path.stat().st_size)
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 0x10
    table.write_bytes(content)
    return table.name


def test_verify_names_the_damage_and_exits_with_1(run, store):
    name = damage_a_table(store)
    result = run("verify", store, "--json")
    assert result.code == 1
    assert result.json["ok"] is False
    [error] = result.json["errors"][:1]
    assert name in error["file"]
    assert isinstance(error["offset"], int)
    assert error["found"] is not None
    text = run("verify", store)
    assert text.code == 1
    assert name.encode() in text.out


def test_verify_reports_a_store_that_cannot_be_opened(run, store):
    [manifest] = Path(store).glob("MANIFEST*")
    content = bytearray(manifest.read_bytes())
    content[3] ^= 1
    manifest.write_bytes(content + b"\n")
    result = run("verify", store, "--json")
    assert result.code == 1
    assert result.json["ok"] is False
    assert manifest.name in result.json["errors"][0]["file"]


def test_compact_leaves_every_row_and_tells_sizes(run, store):
    before = run("scan", store).out
    with lsmkit.open(store) as db:
        for _ in range(3):
            db.put_many([b"x%04d" % n for n in range(2000)], [b"y" * 20] * 2000)
            db.flush()
    result = run("compact", store, "--json")
    assert result.code == 0
    assert set(result.json) == {"bytes_before", "bytes_after", "seconds"}
    assert 0 < result.json["bytes_after"] <= result.json["bytes_before"]
    assert run("compact", store, "--start", "a", "--stop", "b").code == 0
    assert run("scan", store, "--stop", "x").out == before
    assert len(run("scan", store, "--prefix", "x").out.splitlines()) == 2000


def test_changes_are_printed_in_order(run, tmp_path):
    path = str(tmp_path / "store")
    with lsmkit.open(path, retain_log_bytes=1 << 20) as db:
        db.put(b"a", b"tab\there")
        db.put(BINARY, b"", ttl=1000)
        db.delete(b"a")
        db.delete_range(b"b", b"c")
        db.clear()
    shown = run("changes", path)
    assert shown.code == 0
    assert shown.out.decode().splitlines() == [
        "1\tput\ta\ttab\\there",
        f"2\tput\t{BINARY_ESCAPED}\t",
        "3\tdelete\ta",
        "4\tdelete_range\tb\tc",
        "5\tdelete_range\t",
    ]
    assert [row["seq"] for row in run("changes", path, "--json", "--since", 3).rows] == [4, 5]
    first, second, *_ = run("changes", path, "--json").rows
    assert first == {"seq": 1, "kind": "put", "key": "a", "value": "tab\there"}
    assert second["until"] > 1e9
    assert [row["seq"] for row in run("changes", path, "--prefix", "a", "--json").rows] == [1, 3, 5]
    lost = run("changes", path, "--since", 77)
    assert (lost.code, "77" in lost.err) == (2, True)
    lsmkit.open(path, retain_log_bytes=0).close()
    lost = run("changes", path, "--since", 2)
    assert (lost.code, lost.out) == (2, b"")
    assert "begins at 6" in lost.err


def test_changes_follow_another_process(tmp_path):
    path = str(tmp_path / "store")
    with lsmkit.open(path) as db:
        db.put(b"a", b"1")
        command = [sys.executable, "-m", "lsmkit", "changes", path, "--follow"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout.readline() == b"1\tput\ta\t1\n"
                db.put(b"b", b"2")
                assert process.stdout.readline() == b"2\tput\tb\t2\n"
            finally:
                process.kill()


def test_dump_shows_log_tables_and_manifest(run, tmp_path):
    path = str(tmp_path / "dumped")
    with lsmkit.open(path) as db:
        db.put(b"inthetable", b"value")
        db.flush()
    [table] = Path(path).glob("*.sst")
    assert b"inthetable" in run("dump", "sst", str(table), "--rows").out
    everything = run("dump", "sst", path)
    assert everything.code == 0
    assert str(table).encode() in everything.out
    lines = run("dump", "manifest", path)
    assert lines.code == 0
    assert b'"add"' in lines.out
    assert all(set(row) == {"file", "text"} for row in run("dump", "manifest", path, "--json").rows)


def test_dump_wal_shows_what_is_only_in_the_log(run, tmp_path):
    path = str(tmp_path / "killed")
    script = (
        "import lsmkit, os, signal, sys\n"
        "db = lsmkit.open(sys.argv[1])\n"
        "db.put(b'inthelog', b'value')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, path], timeout=60)
    result = run("dump", "wal", path)
    assert result.code == 0
    assert b"inthelog" in result.out


def test_dump_tells_a_prepared_segment_from_a_damaged_one(run, tmp_path):
    (tmp_path / "000001.log").write_bytes(bytes(8192))
    (tmp_path / "000002.log").write_bytes(b"no segment" * 1000)
    result = run("dump", "wal", str(tmp_path))
    assert result.code == 1
    assert b"000001.log\nprepared for later" in result.out
    assert b"000002.log" not in result.out
    assert "000002.log" in one_line(result)


def test_dump_goes_on_behind_a_damaged_table(run, store):
    name = damage_a_table(store)
    with lsmkit.open(store) as db:
        db.put(b"later", b"value")
        db.flush()
    result = run("dump", "sst", store, "--rows")
    assert result.code == 1
    assert name in one_line(result)
    assert b"later" in result.out


# ---- errors ----


@pytest.mark.parametrize(
    "args",
    [
        ("get", "STORE", "k"),
        ("delete", "STORE", "k"),
        ("scan", "STORE"),
        ("stats", "STORE"),
        ("verify", "STORE"),
        ("compact", "STORE"),
        ("dump", "manifest", "STORE"),
        ("dump", "wal", "STORE"),
    ],
)
def test_store_that_is_not_there_is_named_and_not_made(run, tmp_path, args):
    path = tmp_path / "missing"
    result = run(*(str(path) if arg == "STORE" else arg for arg in args))
    assert result.code == 2
    assert str(path) in one_line(result)
    assert not path.exists()


@pytest.mark.parametrize(
    "args", [("frobnicate",), ("get",), ("get", "s", "k", "--frob"), ("scan", "s", "--limit", "x")]
)
def test_wrong_usage_is_one_line_and_exits_with_2(run, args):
    result = run(*args)
    assert result.code == 2
    assert "--help" in one_line(result)


def test_key_that_is_too_long_is_refused_without_a_traceback(run, store):
    result = run("put", store, "k" * 70_000, "v")
    assert result.code == 2
    one_line(result)


def test_store_that_another_process_owns_can_be_read_and_not_written(run, store):
    with lsmkit.open(store):
        result = run("put", store, "k", "v")
        assert result.code == 2
        assert store in one_line(result)
        assert run("get", store, "apple").out == b"APPLE"


def test_help_and_version_exit_with_0(run):
    assert lsmkit.__version__.encode() in run("--version").out
    result = run("--help")
    assert result.code == 0
    for name in (b"load", b"get", b"put", b"scan", b"verify", b"dump", b"demo"):
        assert name in result.out
    assert run().code == 2


def test_module_exits_with_the_command_s_code(store):
    assert python_m("get", store, "apple").returncode == 0
    assert python_m("get", store, "fig").returncode == 1
    assert python_m("get", store).returncode == 2


def test_importing_lsmkit_imports_nothing_of_the_command_line():
    script = (
        "import sys, lsmkit\n"
        "found = {'click', 'rich', 'typer', 'lsmkit.cli'} & set(sys.modules)\n"
        "sys.exit(f'imported: {found}' if found else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_absent_extra_is_told_in_one_line(store):
    script = (
        "import sys\n"
        "sys.modules['click'] = None\n"
        "from lsmkit.cli import main\n"
        "sys.exit(main(['get', sys.argv[1], 'apple']))\n"
    )
    command = [sys.executable, "-c", script, store]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert b"pip install 'lsmkit[cli]'" in done.stderr
    assert done.stderr.count(b"\n") == 1


# --- top -------------------------------------------------------------------------------------


def test_top_tells_what_an_owner_writes_between_two_looks(run, tmp_path, monkeypatch) -> None:
    path = str(tmp_path / "owned")
    with lsmkit.open(path) as owner:
        owner.put_many([b"%d" % i for i in range(100)], [b"v"] * 100)
        owner.flush()

        def meanwhile(seconds: float) -> None:
            owner.put_many([b"x%d" % i for i in range(50)], [b"v"] * 50)
            owner.flush()

        monkeypatch.setattr("lsmkit.cli.top.time.sleep", meanwhile)
        done = run("top", path, "--count", "2", "--json")
        assert done.code == 0, done.err
        first, second = [json.loads(line) for line in done.out.splitlines()]
        assert "seconds" not in first
        assert (first["tables"], second["tables"]) == (1, 2)
        assert second["written_bytes_per_second"] > 0
        assert second["removed_bytes_per_second"] == 0
        assert second["flushed_records_per_second"] * second["seconds"] == pytest.approx(
            50, rel=0.5
        )
        plain = run("top", path, "--count", "2").out.decode().splitlines()
        assert len(plain) == 2
        assert "records/s" in plain[1]


@pytest.mark.parametrize("wrong", [("--interval", "0"), ("--count", "-1"), ("--interval", "nan")])
def test_top_refuses_what_makes_no_sense(run, store, wrong) -> None:
    assert run("top", store, *wrong).code == 2
