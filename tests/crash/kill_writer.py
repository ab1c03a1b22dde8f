"""The process that test_kill.py kills: it writes a stream of operations, and says what it has done.

An operation is made from a seed and its number alone, so that whoever knows both numbers knows the
state: `operations` is read by the writer and by the test. Run as a program:

    kill_writer.py PATH SEED DURABILITY LOG_IO START...

with one number START for each thread: the operation with which it goes on. To standard output goes,
as 8 bytes, what is acknowledged: thread and number of the operation, once its call has returned;
and before all that 8 bytes for no thread, when the store is about to be opened.
"""

from __future__ import annotations

import os
import random
import struct
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Change: TypeAlias = tuple[bytes, bytes | None]

ACK = struct.Struct("<II")
KEYS = 150
TINY: dict[str, Any] = {
    "segment_bytes": 8192,
    "block_bytes": 512,
    "table_bytes": 16384,
    "level_base_bytes": 32768,
}


def operation(seed: int, thread: int, number: int) -> tuple[str, list[Change]]:
    """What operation `number` of a thread does: how, and the keys with new values (None: gone)."""
    rng = random.Random(f"{seed} {thread} {number}")
    how = rng.choices(("put", "delete", "batch", "columns", "array"), (50, 15, 20, 10, 5))[0]
    rows = 1 if how in ("put", "delete") else rng.randint(2, 40)
    changes: list[Change] = []
    for row in range(rows):
        key = b"%c%04d" % (97 + thread, rng.randrange(KEYS))
        value: bytes | None = b"%d.%d " % (number, row) + rng.randbytes(rng.choice((0, 9, 60, 300)))
        if how == "array":
            value = b"%06d.%03d" % (number, row)
        elif how == "delete" or (how == "batch" and rng.random() < 0.3):
            value = None
        changes.append((key, value))
    return how, changes


def apply(seed: int, thread: int, number: int, state: dict[bytes, bytes]) -> None:
    """The same operation on a dict."""
    for key, value in operation(seed, thread, number)[1]:
        if value is None:
            state.pop(key, None)
        else:
            state[key] = value


def write(path: str, seed: int, durability: str, log_io: str, starts: list[int]) -> None:
    import lsmkit

    os.write(1, ACK.pack(0xFFFFFFFF, 0))
    db = lsmkit.open(path, durability=durability, log_io=log_io, sync_interval_ms=5, **TINY)

    def run(thread: int, number: int) -> None:
        while True:
            how, changes = operation(seed, thread, number)
            if how == "put":
                db[changes[0][0]] = changes[0][1] or b""
            elif how == "delete":
                db.delete(changes[0][0])
            elif how == "batch":
                with db.batch() as batch:
                    for key, value in changes:
                        if value is None:
                            batch.delete(key)
                        else:
                            batch.put(key, value)
            elif how == "columns":
                db.put_many([key for key, _ in changes], [value or b"" for _, value in changes])
            else:
                import numpy as np

                values = [value or b"" for _, value in changes]
                db.put_many(np.array([key for key, _ in changes]), np.array(values))
            os.write(1, ACK.pack(thread, number))
            number += 1

    for thread, number in list(enumerate(starts))[1:]:
        threading.Thread(target=run, args=(thread, number), daemon=True).start()
    run(0, starts[0])


if __name__ == "__main__":
    path, seed, durability, log_io = sys.argv[1:5]
    write(path, int(seed), durability, log_io, [int(number) for number in sys.argv[5:]])
