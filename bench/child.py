"""What has to happen in a process of its own: being killed, and having a memory that is measured.

    python -m bench.child killed ENGINE FOLDER LOG_BYTES
    python -m bench.child memory FOLDER ROWS
    python -m bench.child import MODULE

Each prints one line of JSON as its last act.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def start(*arguments: object, **environment: str) -> dict[str, Any]:
    """Runs this file with these arguments; what it printed. {} if it printed nothing."""
    path = os.pathsep.join([ROOT, *(entry for entry in sys.path if entry)])
    done = subprocess.run(
        [sys.executable, "-m", "bench.child", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"bench.child {arguments} ended with {done.returncode}")
    lines = done.stdout.splitlines()
    result: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    return result


def say(**figures: Any) -> None:
    print(json.dumps(figures), flush=True)


def killed(engine: str, folder: str, log_bytes: int) -> None:
    """Puts rows one by one until the log has so many bytes, and dies without closing."""
    from bench import workloads
    from bench.engines import BY_NAME

    store = BY_NAME[engine](folder)
    count = log_bytes // 100
    keys, values = workloads.keys(count, 7), workloads.values(count, 7)
    done = 0
    while store.log_bytes() < log_bytes:
        for key, value in zip(keys[done : done + 500], values[done : done + 500], strict=True):
            store.put(key, value)
        done += 500
    say(rows=done, log_bytes=store.log_bytes(), key=keys[done - 1].hex())
    os.kill(os.getpid(), signal.SIGKILL)


def memory(folder: str, rows: int) -> None:
    """Peaks of the resident memory beyond what is there before the store is opened, while rows are
    put and while all are read, and of what the store says that it holds."""
    import lsmkit

    block = 10_000
    value = os.urandom(48) + b"x" * 52
    for i in range(2):  # what the interpreter needs for a block of rows is not the store's
        keys_of(i, block)
    base = resident()
    phases = {}
    with lsmkit.open(folder) as db:
        for phase in ("writing", "reading"):
            peaks = phases[phase] = {"peak": 0, "segments": 0, "cache": 0}
            for i in range(rows // block):
                for key in keys_of(i, block):
                    if phase == "writing":
                        db.put(key, value)
                    else:
                        db.get(key)
                held = db.stats().memory
                now = {
                    "peak": resident() - base,
                    "segments": held.segments,
                    "cache": held.cache + held.tables,
                }
                for name, figure in now.items():
                    peaks[name] = max(peaks[name], figure)
            db.flush()
            db.wait_idle()
    say(**phases)


def keys_of(i: int, count: int) -> list[bytes]:
    """The i-th block of keys, spread over the whole order."""
    spread = 0x9E3779B97F4A7C15
    first = i * count
    return [
        ((n * spread) & ((1 << 64) - 1)).to_bytes(8, "big") + n.to_bytes(8, "big")
        for n in range(first, first + count)
    ]


def resident() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


def import_time(module: str) -> None:
    start_ns = time.perf_counter_ns()
    __import__(module)
    say(ms=(time.perf_counter_ns() - start_ns) / 1e6, numpy="numpy" in sys.modules)


if __name__ == "__main__":
    job, *rest = sys.argv[1:]
    if job == "killed":
        killed(rest[0], rest[1], int(rest[2]))
    elif job == "memory":
        memory(rest[0], int(rest[1]))
    elif job == "import":
        import_time(rest[0])
    else:
        sys.exit(__doc__)
