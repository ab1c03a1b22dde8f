"""Keyspaces: named stores inside a store, with options of their own.

A keyspace is a tree of the store, as the store's own rows are: it shares the log (so a batch over
several is atomic), the cache and the threads, and has its own tables, and so its own compaction and
compression. What the manifest keeps of it is a text (src/lsmkit/_core/src/trees.h):

    name=readings
    compression=zstd
    compaction=leveled(runs=4)

with the options that were named for it; in all others but `ttl` and `merge_operator` it follows the
store.

Owns      Keyspaces: the handles that were given out, and which options were read.
Threads   any. One at a time makes or drops.
"""

from __future__ import annotations

from _thread import allocate_lock
from _weakref import ref

from ._core import core
from .compaction import LazyLeveled
from .errors import OptionsError, ReadOnlyError
from .merge import operator_from_text
from .options import TREE_FIELDS, Options
from .tree import WritableTree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

    from typing_extensions import Self

    from .aio import AsyncKeyspace
    from .db import DB
    from .merge import Operator

    _Meaning = tuple[int, float | None, Operator | None]

__all__ = ["Keyspace", "Keyspaces", "meanings", "name_of"]

NAME_BYTES_MAX = 255
FIRST_TREE = 16
"""LK_TREE_KEYSPACES in trees.h."""

_PROPERTY = "keyspace/"
"""What the names of their properties begin with: LK_TREE_TEXT_PREFIX."""

_ESCAPES = (("\\", "\\\\"), ("\n", "\\n"), ("\0", "\\0"))


class Keyspace(WritableTree):
    """A named store inside a store; made by `DB.keyspace`. A mapping of bytes to bytes.

    It reads and writes as the store does. After `DB.drop_keyspace` everything is a ClosedError, and
    so it is after the store was closed; it keeps the store open.
    """

    __hash__ = object.__hash__

    _db: DB
    _name: str
    _options: Options

    @classmethod
    def _opened(cls, db: DB, tree: int, name: str) -> Self:
        self = cls.__new__(cls)
        self._attach(db._handle, tree)
        self._handle = db._handle
        self._coordinator = db._coordinator
        self._keyspaces = db._keyspaces
        self._tree = tree
        self._db = db
        self._name = name
        return self

    @property
    def name(self) -> str:
        """What it is called in its store."""
        return self._name

    @property
    def db(self) -> DB:
        """The store that it is a part of."""
        return self._db

    @property
    def options(self) -> Options:
        """The options in force: its own where it has some, else those of the store."""
        return self._options

    @property
    def closed(self) -> bool:
        """Whether the store was closed, or the keyspace dropped."""
        return self._handle.closed or self._handle.has_dropped(self._tree)

    @property
    def aio(self) -> AsyncKeyspace:
        """The same methods as coroutines, and scans for `async for`: see `lsmkit.aio`."""
        from .aio import AsyncKeyspace

        return AsyncKeyspace(self)

    # --- In other processes.

    def __reduce__(self) -> tuple[Callable[..., Keyspace], tuple[DB, str, Operator | None]]:
        return _arrive, (self._db, self._name, self._options.merge_operator)

    def __copy__(self) -> NoReturn:
        raise TypeError(f"{self.path}: a store has one owner, and its handles are not copied")

    def __deepcopy__(self, seen: dict[int, Any]) -> NoReturn:
        self.__copy__()

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ""
        return f"<lsmkit.Keyspace {self._name!r} at {self.path!r}{state}>"


def _arrive(db: DB, name: str, operator: Operator | None) -> Keyspace:
    """What a pickled keyspace becomes where it arrives, with its store."""
    return db.keyspace(name, **({} if operator is None else {"merge_operator": operator}))


class Keyspaces:
    """Those of one open store: finds, makes and drops them, and knows their options."""

    def __init__(self, handle: core.Handle, options: Options, told: list[_Meaning]) -> None:
        self._handle = handle
        self._of_store = options
        # The store's own bookkeeping is never to be lost to a policy that drops what is old.
        self._of_books = options.replace(compaction=LazyLeveled())
        self._lock = allocate_lock()
        # Guarded by the lock: handles that are in use. Weak, because a keyspace keeps its store.
        self._live: dict[str, ref[Keyspace]] = {}
        self._options: dict[int, Options] = {}  # in force; filled when first asked for
        # What the core was told of rows: ttl and merge operator, of those that have one of them.
        self._told = {tree: (ttl, operator) for tree, ttl, operator in told}
        for tree, text in core.keyspaces_of(handle):
            if tree not in self._told:  # made by another owner between the look and the opening
                self._tell(tree, *_meaning_of(text))
        # Of a store that others write: the texts that were read last, by number.
        self._texts: dict[int, str] = {}
        if handle.read_only:
            self._texts = dict(core.keyspaces_of(handle))
            handle.watch(ref(self))

    def names(self) -> list[str]:
        """All of them, sorted."""
        return sorted([name_of(text) for _, text in core.keyspaces_of(self._handle)])

    def numbers(self) -> dict[int, str]:
        """Name of each, by the number of its tree."""
        return {tree: name_of(text) for tree, text in core.keyspaces_of(self._handle)}

    def open(self, db: DB, name: str, given: dict[str, Any]) -> Keyspace:
        """The one of this name, made where there is none."""
        line = _line_of(name)
        named = _checked(given)
        with self._lock:
            found = core.find_keyspace(self._handle, line)
            if found is None:
                tree = self._create(name, line, named)
            else:
                tree = found[0]
                self._change(tree, line, found[1], named)
            known = self._live.get(name)
            keyspace = known() if known is not None else None
            options = self._options[tree]
            if self._tell(tree, options.ttl, options.merge_operator) and keyspace is not None:
                keyspace._attach(self._handle, tree)
            if keyspace is None:
                keyspace = db._keyspace_kind._opened(db, tree, name)
                self._live[name] = ref(keyspace)
            keyspace._options = options
            return keyspace

    def _tell(self, tree: int, ttl: float | None, operator: Operator | None) -> bool:
        """What the core is to know of a tree's rows; False where it knows it."""
        before_ttl, before = self._told.get(tree, (None, None))
        if ttl == before_ttl and operator is before:
            return False
        core.set_tree(self._handle, tree, ttl, operator)
        self._told[tree] = (ttl, operator)
        return True

    def _create(self, name: str, line: str, named: Options) -> int:
        self._handle.check()
        if self._handle.read_only:
            raise ReadOnlyError(
                f"{self._handle.path}: there is no keyspace {name!r}, and the store was opened "
                "read-only"
            )
        tree = core.create_keyspace(self._handle, _text_of(line, named))
        self._options[tree] = self._in_force(named)
        return tree

    def _change(self, tree: int, line: str, text: str, named: Options) -> None:
        """Stores the options that are named now, where they are others than before."""
        stored = _stored(text)
        completed = named.completed(stored)
        if completed._named_values() != stored._named_values() and not self._handle.read_only:
            core.change_keyspace(self._handle, tree, _text_of(line, completed))
        elif tree in self._options and not named.named:
            return
        if named.merge_operator is not None:  # perhaps with the function that was missing
            self._options[tree] = self._in_force(completed)
        else:
            self._options[tree] = self._in_force(completed, self._told.get(tree))

    def drop(self, name: str) -> None:
        """KeyError when there is none of this name."""
        line = _line_of(name)
        with self._lock:
            found = core.find_keyspace(self._handle, line)
            if self._handle.read_only:
                raise ReadOnlyError(f"{self._handle.path}: the store was opened read-only")
            if found is None or not core.drop_keyspace(self._handle, found[0]):
                raise KeyError(name)
            self._options.pop(found[0], None)
            if self._told.pop(found[0], None) is not None:
                core.set_tree(self._handle, found[0], None, None)
            known = self._live.pop(name, None)
            keyspace = known() if known is not None else None
            if keyspace is not None:
                keyspace._detach()

    def moved(self) -> None:
        """The owner of the store has made, changed or dropped some, and the core knows of it."""
        with self._lock:
            before, self._texts = self._texts, dict(core.keyspaces_of(self._handle))
            gone = before.keys() - self._texts.keys()
            live = {
                keyspace._tree: keyspace
                for keyspace in [known() for known in self._live.values()]
                if keyspace is not None
            }
            if gone:
                self._handle.note_dropped(gone)
            for tree in gone:
                self._options.pop(tree, None)
                if tree in live:
                    del self._live[live[tree].name]
                    live[tree]._detach()
            for tree, text in self._texts.items():
                if before.get(tree) != text:
                    self._changed(tree, text, live.get(tree))

    def _changed(self, tree: int, text: str, keyspace: Keyspace | None) -> None:
        self._options.pop(tree, None)
        try:
            ttl, operator = _meaning_of(text)
        except ValueError as error:
            self._handle.background_error(f"keyspace {name_of(text)!r}: {error}")
            return
        told = self._told.get(tree)
        if told is not None and told[1] is not None:
            operator = told[1]  # it is never another, and this one may have a function
        if self._tell(tree, ttl, operator) and keyspace is not None:
            keyspace._attach(self._handle, tree)

    def number(self, name: str) -> int:
        """That of its tree; KeyError when there is none of this name."""
        found = core.find_keyspace(self._handle, _line_of(name))
        if found is None:
            raise KeyError(name)
        return found[0]

    def options_of(self, tree: int) -> Options:
        """Those in force for a tree, also for what is no keyspace: the store's."""
        known = self._options.get(tree)
        if tree < FIRST_TREE:
            return self._of_store if tree == 0 else self._of_books
        if known is not None:
            return known
        found = core.find_keyspace(self._handle, tree)
        if found is None:
            return self._of_store
        try:
            options = self._in_force(_stored(found[1]), self._told.get(tree))
        except ValueError as error:
            # A policy, for example, that is not imported here: its tables are compacted anyhow.
            self._handle.background_error(f"keyspace {name_of(found[1])!r}: {error}")
            options = self._of_store
        # Another thread may have opened it meanwhile, with other options.
        return self._options.setdefault(tree, options)

    def _in_force(
        self,
        named: Options,
        told: tuple[float | None, Operator | None] | None = None,
    ) -> Options:
        """`told`: the core has the operator that is named, and perhaps with a function."""
        own = {"ttl": None, "merge_operator": None, **named._named_values()}
        if told is not None and told[1] is not None:
            own["merge_operator"] = told[1]
        return self._of_store.replace(**own)


def meanings(properties: Mapping[str, str]) -> list[_Meaning]:
    """What the core must know of rows before it reads any, out of the texts of a store: (number,
    ttl, merge operator) of each keyspace that has one of them, by number."""
    found = []
    for name, text in properties.items():
        number = name.removeprefix(_PROPERTY)
        if number != name and number.isdecimal():
            ttl, operator = _meaning_of(text)
            if ttl is not None or operator is not None:
                found.append((int(number), ttl, operator))
    found.sort(key=_number)
    return found


def _number(meaning: _Meaning) -> int:
    return meaning[0]


def _meaning_of(text: str) -> tuple[float | None, Operator | None]:
    """The ttl and the merge operator that the text of a keyspace names."""
    ttl, operator = None, None
    for line in text.split("\n")[1:]:
        field, _, value = line.partition("=")
        if field == "ttl" and value:
            ttl = float(value)
        elif field == "merge_operator" and value:
            operator = operator_from_text(value)
    return ttl, operator


def _line_of(name: str) -> str:
    """The first line of the text of a keyspace, without its end."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a keyspace must be a str, not {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(f"the name of a keyspace is {name!r}, which is not Unicode") from None
    if not 1 <= size <= NAME_BYTES_MAX:
        raise ValueError(
            f"the name of a keyspace must have 1 to {NAME_BYTES_MAX} bytes in UTF-8, not {size}"
        )
    for plain, escaped in _ESCAPES:
        name = name.replace(plain, escaped)
    return f"name={name}"


def name_of(text: str) -> str:
    """The name that stands in the text of a keyspace."""
    line = text.partition("\n")[0].removeprefix("name=")
    if "\\" not in line:
        return line
    parts = line.split("\\\\")
    for plain, escaped in _ESCAPES[1:]:
        parts = [part.replace(escaped, plain) for part in parts]
    return "\\".join(parts)


def _text_of(line: str, named: Options) -> str:
    return f"{line}\n{named.to_text(named.named)}"


def _stored(text: str) -> Options:
    """The options that the text of a keyspace names."""
    return Options.from_text(text.partition("\n")[2])


def _checked(given: dict[str, Any]) -> Options:
    """The options that a caller names."""
    options = Options(**given)
    for name in given:
        if name not in TREE_FIELDS:
            raise OptionsError(f"{name} is an option of the store, not of a keyspace")
    return options
