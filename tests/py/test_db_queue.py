"""A store used as a queue, or as a stack, gives its rows in order, once, whatever is remembered of
the dead rows at its ends.

Method: rows are pushed and popped by the hundred at both ends of a store of tiny segments and
tables, so that what is dead is being flushed and merged all the time; a sorted list knows the
answers.
"""

from __future__ import annotations

import random
from bisect import insort
from itertools import islice

import lsmkit

OPTIONS = {
    "segment_bytes": 32 << 10,
    "table_bytes": 16 << 10,
    "level_base_bytes": 64 << 10,
    "block_bytes": 1 << 10,
}


def key(number):
    return b"%012d" % number


class Queue:
    """Live numbers, in the store and beside it."""

    def __init__(self, db, seed):
        self.db = db
        self.random = random.Random(seed)
        self.live = []
        self.low = self.high = 1 << 30

    def push(self, count, front):
        numbers = (
            range(self.low - count, self.low) if front else range(self.high, self.high + count)
        )
        if front:
            self.low -= count
            self.live[:0] = numbers
        else:
            self.high += count
            self.live.extend(numbers)
        if self.random.random() < 0.5:
            self.db.put_many([key(n) for n in numbers], [b"value"] * count)
        else:
            for n in numbers:
                self.db.put(key(n), b"value")

    def pop(self, count, front):
        rows = [k for k, _ in islice(self.db.scan(reverse=not front), count)]
        expected = self.live[:count] if front else self.live[: -count - 1 : -1]
        assert rows == [key(n) for n in expected]
        if front:
            del self.live[:count]
        else:
            del self.live[-len(expected) :]
        for row in rows:
            self.db.delete(row)

    def put_back(self):
        """One of those that were popped, anywhere among the dead."""
        number = self.random.randrange(self.low, self.high)
        if number not in self.live:
            insort(self.live, number)
        self.db.put(key(number), b"value")


def test_rows_come_out_in_order_at_both_ends(tmp_path):
    with lsmkit.open(tmp_path / "store", **OPTIONS) as db:
        q = Queue(db, 7)
        moment = None
        for turn in range(150):
            count = q.random.randrange(1, 400)
            match q.random.randrange(8):
                case 0 | 1 | 2:
                    q.push(count, front=q.random.random() < 0.2)
                case 3 | 4 | 5:
                    q.pop(count, front=q.random.random() < 0.8)
                case 6:
                    if q.low < q.high:
                        q.put_back()
                case 7:
                    if moment is not None:
                        snapshot, expected = moment
                        with snapshot:
                            assert list(snapshot.scan_keys()) == expected
                    moment = db.snapshot(), [key(n) for n in q.live]
            if turn % 10 == 0:
                assert list(db.scan_keys()) == [key(n) for n in q.live]
                assert list(db.scan_keys(reverse=True)) == [key(n) for n in reversed(q.live)]
        assert len(db) == len(q.live)
