"""Claim: Options checks what it is given, is a dataclass to all who ask, and knows what it stores.

Method: each field at and beyond its bounds; the functions of `dataclasses`, `copy` and `pickle`.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import pprint
import subprocess
import sys

import pytest

from lsmkit import merge
from lsmkit.compaction import LazyLeveled, Leveled
from lsmkit.errors import OptionsError
from lsmkit.options import Options

INT_RANGES = {
    "segment_bytes": (4096, 2**30),
    "block_bytes": (256, 2**20),
    "table_bytes": (4096, 2**34),
    "blob_bytes": (0, 2**30),
    "level_base_bytes": (4096, 2**44),
    "level_fanout": (2, 100),
    "filter_bits": (0, 64),
    "retain_log_bytes": (0, 2**44),
    "cache_bytes": (0, 2**44),
    "memory_bytes": (2**22, 2**45),
    "background_threads": (1, 64),
    "rate_limit": (0, 2**40),
    "max_disk_bytes": (0, 2**60),
    "sync_interval_ms": (1, 3_600_000),
}
CHOICES = {
    "compression": ("none", "lz4", "zstd"),
    "bottom_compression": (None, "none", "lz4", "zstd"),
    "log_io": ("auto", "mapped", "written"),
}
OTHER = Options(
    segment_bytes=1 << 20,
    block_bytes=4096,
    compression="zstd",
    bottom_compression="none",
    compaction=Leveled(runs=8),
    ttl=0.25,
    cache_bytes=0,
)


def test_defaults_are_those_of_the_contract() -> None:
    o = Options()
    assert o.segment_bytes == 64 << 20
    assert o.cache_bytes == 256 << 20
    assert o.memory_bytes == 1 << 30
    assert o.block_bytes == 16 << 10
    assert (o.table_bytes, o.level_base_bytes, o.level_fanout) == (64 << 20, 256 << 20, 10)
    assert (o.blob_bytes, o.max_garbage) == (4096, 0.5)
    assert o.filter_bits == 10
    assert (o.compression, o.bottom_compression) == ("lz4", None)
    assert o.compaction == LazyLeveled()
    assert o.ttl is None
    assert o.merge_operator is None
    assert (o.max_garbage, o.max_disk_bytes) == (0.5, 0)
    assert o.log_io == "auto"
    assert (o.background_threads, o.rate_limit, o.sync_interval_ms) == (2, 0, 1000)


def test_every_field_is_checked_by_some_test_here() -> None:
    names = {field.name for field in dataclasses.fields(Options)}
    others = {"compaction", "ttl", "merge_operator", "max_garbage"}
    assert names == {*INT_RANGES, *CHOICES, *others}


@pytest.mark.parametrize("name", INT_RANGES)
def test_numbers_are_taken_within_their_range_and_refused_beyond(name: str) -> None:
    low, high = INT_RANGES[name]
    for value in (low, high):
        assert getattr(Options(**{name: value}), name) == value
    for value in (low - 1, high + 1):
        with pytest.raises(ValueError, match=f"{name} must be from {low} to {high}.*{value}"):
            Options(**{name: value})


@pytest.mark.parametrize("name", INT_RANGES)
@pytest.mark.parametrize("value", [True, 64.0, "64", None])
def test_numbers_are_ints_and_nothing_else(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{name} must be an int"):
        Options(**{name: value})


@pytest.mark.parametrize("name", CHOICES)
def test_choices_are_taken_and_others_refused(name: str) -> None:
    for value in CHOICES[name]:
        assert getattr(Options(**{name: value}), name) == value
    with pytest.raises(ValueError, match=f"{name} must be one of .*'snappy'"):
        Options(**{name: "snappy"})
    with pytest.raises(TypeError, match=f"{name} must be a str"):
        Options(**{name: 1})


def test_a_policy_is_an_instance_of_one() -> None:
    for value in ("leveled", LazyLeveled, None):
        with pytest.raises(TypeError, match="compaction must be a policy"):
            Options(compaction=value)


def test_the_share_of_garbage_is_a_number_up_to_one() -> None:
    assert Options().max_garbage == 0.5
    for value in (0.05, 0.3, 1):
        assert Options(max_garbage=value).max_garbage == value
    with pytest.raises(TypeError, match="max_garbage must be a float"):
        Options(max_garbage="1")
    for bad in (0, 1.01, float("nan")):
        with pytest.raises(ValueError, match=r"max_garbage must be from 0\.05 to 1"):
            Options(max_garbage=bad)


def test_a_ttl_is_a_number_of_seconds_or_none() -> None:
    for value in (None, 1, 0.001, 1e9):
        assert Options(ttl=value).ttl == value
    for value in (True, "1", b"1"):
        with pytest.raises(TypeError, match="ttl must be a number of seconds"):
            Options(ttl=value)
    for value in (0, -1, float("nan")):
        with pytest.raises(ValueError, match=r"ttl is .* must be more than 0 seconds"):
            Options(ttl=value)


def test_a_merge_operator_is_one_of_the_module_or_its_class() -> None:
    assert Options(merge_operator=merge.AddInt64).merge_operator == merge.AddInt64()
    for operator in (None, merge.Append(), merge.HyperLogLog(9), merge.Struct(a="add")):
        o = Options(merge_operator=operator)
        assert Options.from_text(o.to_text()).merge_operator == operator
    for value in ("append", 1, merge.Custom):
        with pytest.raises(TypeError, match=r"operator of lsmkit\.merge"):
            Options(merge_operator=value)


def test_a_stored_merge_operator_is_kept_and_never_exchanged() -> None:
    stored = Options(merge_operator=merge.AddInt64())
    assert Options().completed(stored).merge_operator == merge.AddInt64()
    assert Options(merge_operator=None).completed(stored).merge_operator == merge.AddInt64()
    assert stored.completed(Options(merge_operator=None)).merge_operator == merge.AddInt64()
    with pytest.raises(OptionsError, match="merged by add_int64"):
        Options(merge_operator=merge.MaxInt64()).completed(stored)


def test_an_unknown_field_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="no field 'blocksize'"):
        Options(blocksize=1)
    with pytest.raises(TypeError):
        Options(1)


def test_nothing_can_be_assigned_or_deleted() -> None:
    o = Options()
    with pytest.raises(dataclasses.FrozenInstanceError):
        o.segment_bytes = 1 << 20
    with pytest.raises(dataclasses.FrozenInstanceError):
        del o.segment_bytes
    assert o == Options()


def test_equality_and_hash_go_by_values() -> None:
    assert Options() == Options(segment_bytes=64 << 20)
    assert hash(Options()) == hash(Options(segment_bytes=64 << 20))
    assert Options() != Options(segment_bytes=1 << 20)
    assert Options() != Options(compaction=Leveled())
    assert Options() != "Options()"


def test_repr_gives_the_same_options_back() -> None:
    names = {"Options": Options, "Leveled": Leveled, "LazyLeveled": LazyLeveled}
    assert eval(repr(OTHER), names) == OTHER


def test_dataclasses_takes_it_for_one_of_its_own() -> None:
    assert dataclasses.is_dataclass(Options)
    assert dataclasses.is_dataclass(OTHER)
    by_name = {field.name: field for field in dataclasses.fields(OTHER)}
    assert by_name["block_bytes"].default == 16 << 10
    replaced = dataclasses.replace(OTHER, block_bytes=8192)
    assert replaced == OTHER.replace(block_bytes=8192)
    assert replaced.compression == "zstd"
    with pytest.raises(ValueError, match="block_bytes"):
        dataclasses.replace(OTHER, block_bytes=1)
    as_dict = dataclasses.asdict(OTHER)
    assert as_dict["segment_bytes"] == 1 << 20
    assert as_dict["compaction"] == {"runs": 8}
    assert len(dataclasses.astuple(OTHER)) == len(by_name)


def test_inspect_and_pprint_work_on_it() -> None:
    signature = inspect.signature(Options)
    assert list(signature.parameters) == [field.name for field in dataclasses.fields(Options)]
    assert signature.parameters["filter_bits"].default == 10
    assert "segment_bytes=1048576" in pprint.pformat(OTHER)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_comes_back_from_a_pickle(protocol: int) -> None:
    back = pickle.loads(pickle.dumps(OTHER, protocol))
    assert back == OTHER
    assert back.named == OTHER.named


def test_it_can_be_copied() -> None:
    assert copy.copy(OTHER) == OTHER
    assert copy.deepcopy(OTHER) == OTHER
    assert OTHER.__replace__(cache_bytes=1).cache_bytes == 1  # as copy.replace calls it


def test_named_are_the_fields_that_were_given() -> None:
    assert Options().named == frozenset()
    assert Options(filter_bits=10).named == {"filter_bits"}
    assert Options(filter_bits=10).replace(cache_bytes=0).named == {"filter_bits", "cache_bytes"}


def test_text_holds_the_options_of_the_store_and_no_others() -> None:
    text = OTHER.to_text()
    assert "compaction=leveled(runs=8)\n" in text
    assert "bottom_compression=none\n" in text
    assert "cache_bytes" not in text
    back = Options.from_text(text)
    assert back == OTHER.replace(cache_bytes=256 << 20)
    assert back.to_text() == text


@pytest.mark.parametrize("options", [Options(), Options(compaction=LazyLeveled(ratio=0.125))])
def test_text_comes_back(options: Options) -> None:
    assert Options.from_text(options.to_text()) == options


@pytest.mark.parametrize(
    "text",
    [
        "segment_bytes",
        "segment_bytes=many",
        "segment_bytes=1",
        "blob_bytes=-1",
        "max_garbage=half",
        "max_garbage=0",
        "cache_bytes=4096",
        "filter_bits=1\nfilter_bits=2",
        "compression=snappy",
        "compaction=",
        "compaction=leveled",
        "compaction=leveled(runs=8",
        "compaction=leveled(runs=0)",
        "compaction=leveled(ratio=1)",
        "compaction=no-such-policy()",
    ],
)
def test_text_that_was_not_written_here_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Options.from_text(text)


def test_what_is_not_named_comes_from_the_store() -> None:
    stored = OTHER.to_text()
    assert Options().completed(stored) == Options.from_text(stored)
    mine = Options(compression="lz4", cache_bytes=4096).completed(stored)
    assert mine == OTHER.replace(compression="lz4", cache_bytes=4096)


def test_what_the_store_does_not_know_has_its_default() -> None:
    assert Options(filter_bits=0).completed("block_bytes=512\n") == Options(
        filter_bits=0, block_bytes=512
    )


def test_importing_it_loads_no_slow_module() -> None:
    program = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import lsmkit.options, lsmkit.stats, lsmkit.compaction.scheduler\n"
        "lsmkit.options.Options(filter_bits=3).replace(cache_bytes=0).to_text()\n"
        "print(*(set(sys.modules) - before))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    slow = {"dataclasses", "typing", "enum", "json", "re", "threading", "pathlib", "numpy"}
    assert slow & set(run.stdout.split()) == set()
