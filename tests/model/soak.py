"""The state machine of test_state_machine.py, driven for very many steps by plain chance.

    make soak STEPS=1000000                      --steps, --jobs, --seed
    python tests/model/soak.py --replay 7:41     what a failure asks for

Hypothesis looks for a small failure and needs milliseconds a step for it. Here the same file is
loaded with a stand-in for Hypothesis that only draws: the same rules, preconditions, invariants and
arguments, and what is added to the machine is driven here too. A store lives for some thousand
steps, and cheap ones are made more often than costly ones.

A run is one store and follows from its seed: every step has a seed of its own, from which all its
arguments are drawn, so that steps can be left out. When a run fails, steps are left out as long as
it goes on failing, and what remains is printed. The threads of the store are not repeated: a
failure that needs their timing may not come back.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

STEPS_A_RUN = 2000
SHRINK_SECONDS = 30.0
SHOWN_BYTES = 160  # of an argument, in a replay

COSTLY = {
    "checkpoint": 0.05,
    "clear": 0.05,
    "compact": 0.2,
    "compact_all": 0.05,
    "flush": 0.2,
    "ingest": 0.2,
    "read_beside": 0.1,
    "reopen": 0.05,
    "size": 0.1,
    "sync": 0.3,
    "verify": 0.05,
    "wait_idle": 0.1,
}
"""So often for each time that another rule is chosen."""


# --- A stand-in for Hypothesis ---------------------------------------------------------------


class Strategy:
    """Draws an argument from a generator of random numbers."""

    def __init__(self, draw: Callable[[random.Random], Any]) -> None:
        self.draw = draw

    def map(self, pack: Callable[[Any], Any]) -> Strategy:
        return Strategy(lambda r: pack(self.draw(r)))

    def filter(self, accepts: Callable[[Any], bool]) -> Strategy:
        def draw(r: random.Random) -> Any:
            while True:
                value = self.draw(r)
                if accepts(value):
                    return value

        return Strategy(draw)

    def __or__(self, other: Strategy) -> Strategy:
        return one_of(self, other)


class Data:
    """What `st.data()` gives."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def draw(self, strategy: Strategy, label: str | None = None) -> Any:
        return strategy.draw(self._rng)

    def __repr__(self) -> str:
        return "data"


def one_of(*branches: Any) -> Strategy:
    each = branches[0] if len(branches) == 1 and not isinstance(branches[0], Strategy) else branches
    return Strategy(lambda r: r.choice(each).draw(r))


def integers(min_value: int = -(1 << 63), max_value: int = 1 << 63) -> Strategy:
    return Strategy(lambda r: r.randint(min_value, max_value))


def _size(r: random.Random, low: int, high: int) -> int:
    """Mostly small."""
    return min(high, low + int(r.expovariate(1.0) * max(1.0, (high - low) / 4)))


def lists(
    elements: Strategy, *, min_size: int = 0, max_size: int = 20, unique: bool = False
) -> Strategy:
    def draw(r: random.Random) -> list[Any]:
        found = [elements.draw(r) for _ in range(_size(r, min_size, max_size))]
        return list(dict.fromkeys(found)) if unique else found

    return Strategy(draw)


def binary(*, min_size: int = 0, max_size: int = 20) -> Strategy:
    return Strategy(lambda r: r.randbytes(r.randint(min_size, max_size)))


def sampled_from(elements: Any) -> Strategy:
    each = list(elements)
    return Strategy(lambda r: r.choice(each))


def tuples(*each: Strategy) -> Strategy:
    return Strategy(lambda r: tuple([one.draw(r) for one in each]))


def fixed_dictionaries(
    mapping: dict[str, Strategy], *, optional: dict[str, Strategy] | None = None
) -> Strategy:
    def draw(r: random.Random) -> dict[str, Any]:
        found = {name: one.draw(r) for name, one in mapping.items()}
        more = {name: one for name, one in (optional or {}).items() if r.random() < 0.5}
        return found | {name: one.draw(r) for name, one in more.items()}

    return Strategy(draw)


def builds(target: Any, *args: Strategy, **named: Strategy) -> Strategy:
    return Strategy(
        lambda r: target(
            *[one.draw(r) for one in args], **{name: one.draw(r) for name, one in named.items()}
        )
    )


def floats(min_value: float = 0.0, max_value: float = 1.0) -> Strategy:
    return Strategy(lambda r: r.uniform(min_value, max_value))


STRATEGIES = {
    "binary": binary,
    "booleans": lambda: Strategy(lambda r: r.random() < 0.5),
    "builds": builds,
    "data": lambda: Strategy(Data),
    "fixed_dictionaries": fixed_dictionaries,
    "floats": floats,
    "integers": integers,
    "just": lambda value: Strategy(lambda r: value),
    "lists": lists,
    "none": lambda: Strategy(lambda r: None),
    "one_of": one_of,
    "sampled_from": sampled_from,
    "tuples": tuples,
}


def rule(**arguments: Strategy) -> Callable[[Any], Any]:
    def mark(function: Any) -> Any:
        function.arguments = arguments
        return function

    return mark


def initialize(**arguments: Strategy) -> Callable[[Any], Any]:
    def mark(function: Any) -> Any:
        function.begins_with = arguments
        return function

    return mark


def precondition(holds: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def mark(function: Any) -> Any:
        function.preconditions = (*getattr(function, "preconditions", ()), holds)
        return function

    return mark


def invariant() -> Callable[[Any], Any]:
    def mark(function: Any) -> Any:
        function.is_invariant = True
        return function

    return mark


def load_machine() -> type[Any]:
    """The machine, with this file in Hypothesis' place."""
    names = ("hypothesis", "hypothesis.strategies", "hypothesis.stateful")
    before = {name: sys.modules.get(name) for name in names}
    fakes = {name: ModuleType(name) for name in names}
    vars(fakes["hypothesis.strategies"]).update(STRATEGIES)
    vars(fakes["hypothesis.stateful"]).update(
        RuleBasedStateMachine=object,
        rule=rule,
        initialize=initialize,
        precondition=precondition,
        invariant=invariant,
        run_state_machine_as_test=None,
    )
    vars(fakes["hypothesis"]).update(
        strategies=fakes["hypothesis.strategies"],
        stateful=fakes["hypothesis.stateful"],
        settings=SimpleNamespace(default=SimpleNamespace(max_examples=0)),
        HealthCheck=(),
    )
    machine = ModuleType("soaked_state_machine")
    path = Path(__file__).with_name("test_state_machine.py")
    machine.__file__ = str(path)
    sys.modules[machine.__name__] = machine
    sys.modules.update(fakes)
    try:
        exec(compile(path.read_text("utf-8"), str(path), "exec"), vars(machine))
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    kind: type[Any] = machine.StoreMachine
    return kind


# --- One run ---------------------------------------------------------------------------------


class Machine:
    """The rules of the machine, by name."""

    def __init__(self) -> None:
        self.kind = load_machine()
        members = [(name, getattr(self.kind, name)) for name in sorted(dir(self.kind))]
        self.rules = {name: each for name, each in members if hasattr(each, "arguments")}
        self.begins = [each for _, each in members if hasattr(each, "begins_with")]
        self.invariants = [each for _, each in members if hasattr(each, "is_invariant")]
        self.weights = [COSTLY.get(name, 1.0) for name in self.rules]

    def plan(self, seed: str, count: int) -> list[tuple[str, int]]:
        """The steps of a run: which rule, and the seed of its arguments."""
        rng = random.Random(seed)
        names = rng.choices(list(self.rules), self.weights, k=count)
        return [(name, rng.getrandbits(48)) for name in names]

    def run(
        self, seed: str, plan: list[tuple[str, int]], told: list[str] | None = None
    ) -> tuple[int, BaseException | None]:
        """How many steps were made, and the failure, if it came to one."""
        store = self.kind()
        rng = random.Random(seed + "begin")
        done = 0
        try:
            try:
                for begin in self.begins:
                    self.call(store, begin, begin.begins_with, rng, told)
                for name, step in plan:
                    if self.step(store, name, step, told):
                        done += 1
            finally:
                store.teardown()
        except Exception as error:
            return done, error
        return done, None

    def step(self, store: Any, name: str, seed: int, told: list[str] | None) -> bool:
        each = self.rules[name]
        if not all(holds(store) for holds in getattr(each, "preconditions", ())):
            return False
        self.call(store, each, each.arguments, random.Random(seed), told)
        for holds in self.invariants:
            holds(store)
        return True

    def call(
        self, store: Any, each: Any, of: dict[str, Strategy], rng: random.Random, told: Any
    ) -> None:
        arguments = {name: strategy.draw(rng) for name, strategy in of.items()}
        if told is not None:
            shown = ", ".join([f"{name}={_shown(value)}" for name, value in arguments.items()])
            told.append(f"{each.__name__}({shown})")
        each(store, **arguments)

    def shrink(
        self, seed: str, plan: list[tuple[str, int]], seconds: float
    ) -> list[tuple[str, int]]:
        """Fewer steps that fail too: pieces are left out, smaller and smaller ones."""
        end = time.monotonic() + seconds
        size = len(plan) // 2
        while size >= 1:
            at = len(plan) - size
            while at > -size and time.monotonic() < end:
                fewer = plan[: max(at, 0)] + plan[at + size :]
                if self.run(seed, fewer)[1] is not None:
                    plan = fewer
                at -= size
            size //= 2
        return plan


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_BYTES else f"{text[:SHOWN_BYTES]}... ({len(text)} characters)"


# --- Many runs -------------------------------------------------------------------------------


def soak(seed: int, first: int, stride: int, steps: int, failures: Any) -> int:
    """Runs `first`, `first + stride`, ... until so many steps were made; the steps made."""
    machine = Machine()
    made = 0
    number = first
    while made < steps and failures.value == 0:
        name = f"{seed}:{number}"
        plan = machine.plan(name, STEPS_A_RUN)
        done, error = machine.run(name, plan)
        made += done
        if error is not None:
            with failures.get_lock():
                failures.value += 1
            tell(machine, name, plan, error)
            break
        number += stride
    return made


def tell(machine: Machine, name: str, plan: list[tuple[str, int]], error: BaseException) -> None:
    lines = ["", f"run {name} failed; `python {sys.argv[0]} --replay {name}` repeats it", ""]
    lines += traceback.format_exception(error)
    short = machine.shrink(name, plan, SHRINK_SECONDS)
    told: list[str] = []
    again = machine.run(name, short, told)[1]
    if again is None:
        lines += ["", "It did not fail again: it needs the timing of the store's threads."]
    else:
        lines += ["", f"{len(short)} steps are enough for: {again!r:.500}", ""]
        lines += [f"    {line}" for line in told]
    print("\n".join(lines), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Drives the model's state machine by chance.")
    parser.add_argument("--steps", type=int, default=1_000_000, help="in all (1,000,000)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (cores)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--replay", metavar="SEED:RUN", help="one run again")
    asked = parser.parse_args()
    if asked.replay:
        machine = Machine()
        plan = machine.plan(asked.replay, STEPS_A_RUN)
        _, error = machine.run(asked.replay, plan)
        if error is None:
            print(f"run {asked.replay} passed")
            return 0
        tell(machine, asked.replay, plan, error)
        return 1
    print(f"soak: {asked.steps:,} steps in {asked.jobs} processes, seed {asked.seed}", flush=True)
    started = time.monotonic()
    failures = multiprocessing.Value("i", 0)
    share = -(-asked.steps // asked.jobs)
    made = multiprocessing.Value("q", 0)

    def work(first: int) -> None:
        count = soak(asked.seed, first, asked.jobs, share, failures)
        with made.get_lock():
            made.value += count

    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=work, args=(first,)) for first in range(asked.jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.monotonic() - started
    crashed = [worker.exitcode for worker in workers if worker.exitcode != 0]
    if crashed:
        print(f"soak: a process ended with {crashed[0]}; its runs are of seed {asked.seed}")
    verdict = "FAILED" if failures.value or crashed else "all as the model has it"
    print(f"soak: {made.value:,} steps in {seconds:.0f} s: {verdict}", flush=True)
    return 1 if failures.value or crashed else 0


if __name__ == "__main__":
    sys.exit(main())
