"""The process that the demo kills: writes flights in batches and says which are acknowledged.

Run as ``python -m lsmkit.cli.demo_writer STORE FIRST_BATCH ROWS``. After each batch whose
`put_many` has returned, a line with the batch's number goes to stdout, at once. Lines are long, so
that the pipe holds few of them and the writer cannot run far ahead of who reads and counts them.
"""

from __future__ import annotations

import os
import sys

import lsmkit
from lsmkit.cli.flights import Flights, read_flights

BATCH_ROWS = 20
LINE_BYTES = 512  # a write of so much is whole in any pipe
# Small, so that log segments are filled, flushed and compacted while the kill comes.
SEGMENT_BYTES = 1 << 20


def batch_count(flights: Flights) -> int:
    return -(-len(flights) // BATCH_ROWS)


def write(path: str, first: int, limit: int) -> None:
    flights = read_flights(limit)
    with lsmkit.open(path, segment_bytes=SEGMENT_BYTES) as db:
        for number in range(first, batch_count(flights)):
            rows = slice(number * BATCH_ROWS, (number + 1) * BATCH_ROWS)
            db.put_many(flights.keys[rows], flights.values[rows])
            os.write(1, b"%*d\n" % (LINE_BYTES - 1, number))


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
