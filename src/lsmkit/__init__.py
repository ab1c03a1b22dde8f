"""lsmkit: a log-structured storage engine for write-heavy Python programs, in the process itself.

>>> import lsmkit, tempfile
>>> with lsmkit.open(tempfile.mkdtemp()) as db:
...     db.put(b"key", b"value")
...     db.get(b"key")
b'value'

Keys and values are bytes; keys sort as unsigned bytes. A write is in the operating system's hands
when its call returns, without a system call (`durability`); reads see all that was written.
"""

from __future__ import annotations

from . import compaction, dbm, merge
from ._core.core import (
    BTreeCursor,
    Changes,
    Column,
    Columns,
    Cursor,
    WriteBatch,
    decode_key,
    encode_key,
    encode_keys,
)
from .btree import BTree, BTreeStats, open_btree
from .changes import Change
from .db import DB, open
from .errors import (
    Busy,
    ChangesLost,
    ClosedError,
    ConflictError,
    CorruptionError,
    Error,
    LockedError,
    OptionsError,
    ReadOnlyError,
    StorageError,
    StoreExistsError,
    StoreNotFoundError,
)
from .housekeeping import destroy
from .keyspace import Keyspace
from .options import Options
from .repair import Repair, repair
from .stats import Stats
from .transaction import Transaction
from .tree import Snapshot
from .verify import Verification

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import metrics as metrics
    from . import testing as testing
else:

    def __getattr__(name: str) -> object:
        """`metrics` and `testing` are imported when somebody asks for them."""
        if name not in ("metrics", "testing"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return import_module(f"{__name__}.{name}")


__version__ = "0.1.0"

__all__ = [
    "DB",
    "BTree",
    "BTreeCursor",
    "BTreeStats",
    "Busy",
    "Change",
    "Changes",
    "ChangesLost",
    "ClosedError",
    "Column",
    "Columns",
    "ConflictError",
    "CorruptionError",
    "Cursor",
    "Error",
    "Keyspace",
    "LockedError",
    "Options",
    "OptionsError",
    "ReadOnlyError",
    "Repair",
    "Snapshot",
    "Stats",
    "StorageError",
    "StoreExistsError",
    "StoreNotFoundError",
    "Transaction",
    "Verification",
    "WriteBatch",
    "__version__",
    "compaction",
    "dbm",
    "decode_key",
    "destroy",
    "encode_key",
    "encode_keys",
    "merge",
    "open",
    "open_btree",
    "repair",
]
