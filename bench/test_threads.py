"""Four threads write to one store: six times the best peer with single puts, eight with batches."""

from __future__ import annotations

import threading
import time

from bench import workloads as w

THREADS = 4
SECONDS_MAX = w.seconds(1.2)


def together(work, pieces, unit):
    """Rows a second of all threads, each with its own share of the pieces."""
    barrier = threading.Barrier(THREADS + 1)
    done = [0] * THREADS
    failed = []

    def run(i):
        barrier.wait()
        end = time.perf_counter() + SECONDS_MAX
        try:
            for piece in pieces[i::THREADS]:
                work(piece)
                done[i] += unit
                if time.perf_counter() > end:
                    break
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=run, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - start
    assert not failed
    return sum(done) / took


def test_threads_put(compete, place, report):
    count = w.rows(1_000_000, multiple=4000)
    pieces = w.chunks(w.keys(count), w.values(count), 1000)
    samples = compete(place.fresh(lambda store: together(w.putter(store.put), pieces, 1000)))
    report.race("put from 4 threads", samples, 6)


def test_threads_batches(compete, place, report):
    count = w.rows(2_000_000, multiple=4000)
    pieces = w.chunks(w.keys(count), w.values(min(count, 1_000_000)), 1000)
    samples = compete(place.fresh(lambda store: together(w.batcher(store.put_many), pieces, 1000)))
    report.race("put_many of 1000 from 4 threads", samples, 8)
