"""lsmkit and its peers behind one small interface, each as fast as its own manual makes it.

    Engine(path, durability, memory)    opens; durability is "process" or "sync"
      put get delete                    one row
      put_many get_many                 a batch, atomic where the engine has such a thing
      scan(start)                       iterator of pairs in key order
      rest                              all in tables, all background work done
      close

What is the same for all: what a returned write survives, 64 MiB of write buffer, 256 MiB of cache,
filters of 10 bits a key where there are filters, light compression where there is compression (LZ4;
Snappy in LevelDB), two background threads where that can be chosen.

Where an engine's own method has the right meaning it is bound as it stands, so that no call of this
file is in what is measured. What is in it besides is the engine's honest cost: a transaction a put
for LMDB and SQLite. Reads in LMDB share one transaction, which ends when something is written.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

MIB = 1 << 20


@dataclass(frozen=True)
class Memory:
    buffer_bytes: int = 64 * MIB
    cache_bytes: int = 256 * MIB


class Engine:
    name: ClassVar[str]
    package: ClassVar[str]
    is_lsm: ClassVar[bool] = False

    # Methods of a subclass, or the engine's own, bound when it is opened.
    put: Any
    get: Any
    delete: Any
    put_many: Any
    scan: Any
    close: Any

    def __init__(
        self, path: str, durability: str = "process", memory: Memory | None = None
    ) -> None:
        os.makedirs(path, exist_ok=True)
        self.path = path
        self.open(path, durability == "sync", memory or Memory())

    @classmethod
    def is_installed(cls) -> bool:
        return find_spec(cls.package) is not None

    def open(self, path: str, sync: bool, memory: Memory) -> None:
        raise NotImplementedError

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return list(map(self.get, keys))

    def reader(self) -> Callable[[bytes], Any]:
        """The fastest way to get while nothing is written."""
        get: Callable[[bytes], Any] = self.get
        return get

    def rest(self) -> None:
        raise NotImplementedError

    def log_bytes(self) -> int:
        """How much of a log a process that is killed now would leave."""
        return 0

    def written_bytes(self) -> int | None:
        """What the engine says that it has written since it was opened, log and tables."""
        return None

    def _file_bytes(self, ending: str) -> int:
        return sum(
            entry.stat().st_size for entry in os.scandir(self.path) if entry.name.endswith(ending)
        )


class Lsmkit(Engine):
    name = "lsmkit"
    package = "lsmkit"
    is_lsm = True
    options: ClassVar[dict[str, Any]] = {}

    def open(self, path: str, sync: bool, memory: Memory) -> None:
        import lsmkit

        self.db = db = lsmkit.open(
            path,
            durability="sync" if sync else "process",
            segment_bytes=memory.buffer_bytes,
            cache_bytes=memory.cache_bytes,
            **self.options,
        )
        self.put, self.get, self.delete = db.put, db.get, db.delete
        self.put_many, self.scan, self.close = db.put_many, db.scan, db.close

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = self.db.get_many(keys)
        return found

    def batch(self, keys: list[bytes], values: list[bytes]) -> None:
        """The other way to write a batch: row by row, in a `with`."""
        with self.db.batch() as batch:
            put = batch.put
            for key, value in zip(keys, values, strict=True):
                put(key, value)

    def rest(self) -> None:
        self.db.compact()
        self.db.wait_idle()

    def log_bytes(self) -> int:
        return self.db.stats().writes.bytes

    def written_bytes(self) -> int:
        stats = self.db.stats()
        return stats.writes.bytes + stats.flushes.bytes + stats.compactions.bytes_out


class Plyvel(Engine):
    """LevelDB."""

    name = "plyvel"
    package = "plyvel"
    is_lsm = True

    def open(self, path: str, sync: bool, memory: Memory) -> None:
        import plyvel

        self.db = db = plyvel.DB(
            path,
            create_if_missing=True,
            write_buffer_size=memory.buffer_bytes,
            lru_cache_size=memory.cache_bytes,
            bloom_filter_bits=10,
        )
        self.sync = sync
        self.put, self.get, self.delete = db.put, db.get, db.delete
        self.close = db.close
        if sync:
            self.put = lambda key, value: db.put(key, value, sync=True)

    def put_many(self, keys: list[bytes], values: list[bytes]) -> None:
        with self.db.write_batch(sync=self.sync) as batch:
            put = batch.put
            for key, value in zip(keys, values, strict=True):
                put(key, value)

    def scan(self, start: bytes | None = None) -> Any:
        return self.db.iterator(start=start)

    def rest(self) -> None:
        self.db.compact_range()

    def log_bytes(self) -> int:
        return self._file_bytes(".log")


class Rocksdict(Engine):
    """RocksDB, with bytes as they stand."""

    name = "rocksdict"
    package = "rocksdict"
    is_lsm = True

    def open(self, path: str, sync: bool, memory: Memory) -> None:
        import rocksdict

        table = rocksdict.BlockBasedOptions()
        table.set_block_cache(rocksdict.Cache(memory.cache_bytes))
        table.set_bloom_filter(10, False)
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(memory.buffer_bytes)
        options.set_compression_type(rocksdict.DBCompressionType.lz4())
        options.set_max_background_jobs(2)
        options.set_block_based_table_factory(table)
        write = rocksdict.WriteOptions()
        write.sync = sync
        self.db = db = rocksdict.Rdict(path, options)
        db.set_write_options(write)
        self.put, self.get, self.delete = db.put, db.get, db.delete
        self.new_batch = rocksdict.WriteBatch
        self.compact_options = rocksdict.CompactOptions

    def put_many(self, keys: list[bytes], values: list[bytes]) -> None:
        batch = self.new_batch(raw_mode=True)
        put = batch.put
        for key, value in zip(keys, values, strict=True):
            put(key, value)
        self.db.write(batch)

    def get_many(self, keys: Any) -> Any:
        return self.db.get(keys)

    def ingest(self, keys: list[bytes], values: list[bytes], file: str) -> None:
        """The path around log and memtable: a table of keys that are sorted, and new to it."""
        import rocksdict

        options = rocksdict.Options(raw_mode=True)
        options.set_compression_type(rocksdict.DBCompressionType.lz4())
        writer = rocksdict.SstFileWriter(options)
        writer.open(file)
        put = writer.__setitem__
        for key, value in zip(keys, values, strict=True):
            put(key, value)
        writer.finish()
        move = rocksdict.IngestExternalFileOptions()
        move.set_move_files(True)
        self.db.ingest_external_file([file], move)

    def scan(self, start: bytes | None = None) -> Any:
        return self.db.items() if start is None else self.db.items(from_key=start)

    def rest(self) -> None:
        self.db.flush()
        self.db.compact_range(None, None)

    def log_bytes(self) -> int:
        return self._file_bytes(".log")

    def written_bytes(self) -> int | None:
        """From the text that RocksDB gives for a person, in thousandths of a GB."""
        total = 0.0
        for name, start, unit in (
            ("rocksdb.cfstats", "Cumulative compaction:", " GB write"),
            ("rocksdb.dbstats", "Cumulative WAL:", " GB, "),
        ):
            text = self.db.property_value(name) or ""
            [line] = [line for line in text.splitlines() if line.startswith(start)] or [""]
            number = line.partition(unit)[0].split()[-1:]
            if not number:
                return None
            total += float(number[0])
        return int(total * (1 << 30))

    def close(self) -> None:
        self.db.close()
        # A handle keeps its options, and with them the cache, until it is dropped.
        for name in ("db", "put", "get", "delete"):
            with suppress(AttributeError):
                delattr(self, name)


class Lmdb(Engine):
    name = "lmdb"
    package = "lmdb"
    map_bytes = 16 << 30

    def open(self, path: str, sync: bool, memory: Memory) -> None:
        import lmdb

        # A commit that need not reach the disk is quickest as stores into the map, and one that
        # must be there as a write and an fdatasync.
        self.env = lmdb.open(
            path,
            map_size=self.map_bytes,
            writemap=not sync,
            map_async=not sync,
            sync=sync,
            metasync=sync,
        )
        self.reading: Any = None

    def put(self, key: bytes, value: bytes) -> None:
        if self.reading is not None:
            self._end_reading()
        with self.env.begin(write=True) as transaction:
            transaction.put(key, value)

    def delete(self, key: bytes) -> None:
        if self.reading is not None:
            self._end_reading()
        with self.env.begin(write=True) as transaction:
            transaction.delete(key)

    def put_many(self, keys: list[bytes], values: list[bytes]) -> None:
        if self.reading is not None:
            self._end_reading()
        with self.env.begin(write=True) as transaction, transaction.cursor() as cursor:
            cursor.putmulti(list(zip(keys, values, strict=True)))

    def get(self, key: bytes) -> bytes | None:
        if self.reading is None:
            self.reading = self.env.begin()
        found: bytes | None = self.reading.get(key)
        return found

    def _transaction(self) -> Any:
        if self.reading is None:
            self.reading = self.env.begin()
        return self.reading

    def _end_reading(self) -> None:
        self.reading.abort()
        self.reading = None

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return list(map(self._transaction().get, keys))

    def reader(self) -> Callable[[bytes], bytes | None]:
        get: Callable[[bytes], bytes | None] = self._transaction().get
        return get

    def scan(self, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        cursor = self._transaction().cursor()
        if start is not None and not cursor.set_range(start):
            return iter(())
        pairs: Iterator[tuple[bytes, bytes]] = cursor.iternext()
        return pairs

    def rest(self) -> None:
        self.env.sync(True)

    def close(self) -> None:
        if self.reading is not None:
            self._end_reading()
        self.env.close()


class Sqlite(Engine):
    """SQLite with a write-ahead log, and the key as the place of a row."""

    name = "sqlite3"
    package = "sqlite3"
    page_bytes = 4096

    PUT = "REPLACE INTO rows VALUES (?, ?)"
    GET = "SELECT value FROM rows WHERE key = ?"
    SCAN = "SELECT key, value FROM rows ORDER BY key"
    SCAN_FROM = "SELECT key, value FROM rows WHERE key >= ? ORDER BY key"

    def open(self, path: str, sync: bool, memory: Memory) -> None:
        self.db = db = sqlite3.connect(
            os.path.join(path, "rows.db"), isolation_level=None, check_same_thread=False
        )
        self.lock = threading.Lock()
        for pragma in (
            f"page_size = {self.page_bytes}",
            "journal_mode = WAL",
            f"synchronous = {'FULL' if sync else 'OFF'}",
            f"cache_size = {-(memory.cache_bytes >> 10)}",
            f"wal_autocheckpoint = {memory.buffer_bytes // self.page_bytes}",
        ):
            db.execute(f"PRAGMA {pragma}")
        db.execute(
            "CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID"
        )

    def put(self, key: bytes, value: bytes) -> None:
        self.db.execute(self.PUT, (key, value))

    def delete(self, key: bytes) -> None:
        self.db.execute("DELETE FROM rows WHERE key = ?", (key,))

    def put_many(self, keys: list[bytes], values: list[bytes]) -> None:
        with self.lock:
            self.db.execute("BEGIN")
            self.db.executemany(self.PUT, zip(keys, values, strict=True))
            self.db.execute("COMMIT")

    def get(self, key: bytes) -> bytes | None:
        row: tuple[bytes] | None = self.db.execute(self.GET, (key,)).fetchone()
        return row[0] if row else None

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        marks = ",".join("?" * len(keys))
        found = dict(self.db.execute(f"SELECT key, value FROM rows WHERE key IN ({marks})", keys))
        return list(map(found.get, keys))

    def scan(self, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        if start is None:
            return self.db.execute(self.SCAN)
        return self.db.execute(self.SCAN_FROM, (start,))

    def rest(self) -> None:
        self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def log_bytes(self) -> int:
        return self._file_bytes("-wal")

    def close(self) -> None:
        self.db.close()


ALL: tuple[type[Engine], ...] = (Lsmkit, Plyvel, Rocksdict, Lmdb, Sqlite)
ENGINES = [engine for engine in ALL if engine.is_installed()]
BY_NAME = {engine.name: engine for engine in ENGINES}
PEERS = [engine.name for engine in ALL if engine is not Lsmkit]
LSM_PEERS = [engine.name for engine in ALL if engine.is_lsm and engine is not Lsmkit]
