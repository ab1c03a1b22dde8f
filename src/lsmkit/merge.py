"""Merge operators: what the operands of a key make of its value.

A `merge` stores an operand and reads nothing. The operator is chosen for a store or keyspace, and
folds operands where they meet: in `merge_many` before they are logged, at flush, in compaction, and
in every read, so that a read never shows less than was written.

>>> AddInt64().fold(None, [(2).to_bytes(8, "little"), (3).to_bytes(8, "little")])[0]
5

An operator is stored by its text, and equal texts are one operator. All but `Custom` run in C.
"""

from __future__ import annotations

from ._core import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Self

    from ._core.core import _BytesLike as Buffer

__all__ = [
    "AddFloat64",
    "AddInt64",
    "Append",
    "BitOr",
    "Custom",
    "HyperLogLog",
    "Latest",
    "MaxInt64",
    "MinInt64",
    "Operator",
    "Struct",
    "operator_from_text",
    "operator_of",
]

NAME_BYTES_MAX = 255
RULES = ("add", "min", "max", "or", "first", "last")


class Operator(core.Operator):
    """The base of all merge operators. Immutable; equal where the stored texts are."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Operator):
            return NotImplemented
        return self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __reduce__(self) -> tuple[Any, ...]:
        return operator_from_text, (self.text,)


class _Simple(Operator):
    """An operator without parameters."""

    _text = ""

    def __init__(self) -> None:
        self._make(self._text)


class AddInt64(_Simple):
    """Adds: operands and value are 8 bytes, a little-endian int64. Sums wrap."""

    _text = "add_int64"


class AddFloat64(_Simple):
    """Adds: operands and value are 8 bytes, a little-endian float64. Where operands are folded
    first decides how a sum is rounded, so its last bits are not determined."""

    _text = "add_float64"


class MaxInt64(_Simple):
    """Keeps the greatest of 8-byte little-endian int64."""

    _text = "max_int64"


class MinInt64(_Simple):
    """Keeps the least of 8-byte little-endian int64."""

    _text = "min_int64"


class BitOr(_Simple):
    """Joins bits: operands and value are bytes of one length. Different lengths are a ValueError
    where they meet: in `merge_many`, else in the read."""

    _text = "bit_or"


class Append(_Simple):
    """Appends each operand to the value, any bytes. A value longer than 1 GiB is a ValueError in
    the read; nothing is cut off."""

    _text = "append"


class Latest(_Simple):
    """Keeps the operand with the greatest time stamp, its first 8 bytes as a little-endian int64;
    of equal stamps the one written last. Late events do no harm."""

    _text = "latest"


class Struct(Operator):
    """Merges records field by field: `Struct(dtype, count="add", low="min", high="max")`.

    `dtype` is a NumPy structured dtype, little-endian, or what makes one; without it each field is
    an int64, in the order named. Operands and value are records of it. Each field has a rule:

    ============= ======================================== ===================================
    rule          fields                                   keeps
    ============= ======================================== ===================================
    "add"         integers (wrapping), floats, timedelta   the sum
    "min", "max"  integers, floats (NaN gives way), bool,  the least or greatest
                  datetime64 and timedelta64
    "or"          integers, bool                           all bits
    "first"       any of fixed size                        the oldest
    "last"        any of fixed size                        the newest
    ============= ======================================== ===================================

    A field may be an array of such elements. Names, types and rules are part of the stored text.
    Raises ValueError for a field without a rule, a rule without its field, or a type that cannot be
    merged so.
    """

    def __init__(self, /, dtype: npt.DTypeLike | None = None, **rules: str) -> None:
        self._make(_struct_text(dtype, rules))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The record: `np.frombuffer(value, operator.dtype)` reads one."""
        import numpy as np

        width, fields = _struct_fields(self.text)
        spec: Any = {"names": [], "formats": [], "offsets": [], "itemsize": width}
        for name, _, kind, offset, count in fields:
            spec["names"].append(name)
            spec["formats"].append((kind, (count,)) if count > 1 else kind)
            spec["offsets"].append(offset)
        made: np.dtype[Any] = np.dtype(spec)
        return made

    @property
    def rules(self) -> dict[str, str]:
        """Field to rule, in the order of the record."""
        return {name: rule for name, rule, _, _, _ in _struct_fields(self.text)[1]}

    def __repr__(self) -> str:
        rules = "".join(f", {name}={rule!r}" for name, rule in self.rules.items())
        return f"Struct({self.dtype!r}{rules})"


def _struct_text(dtype: npt.DTypeLike | None, rules: dict[str, str]) -> str:
    if not rules:
        raise ValueError("a Struct needs a rule for each field, as in Struct(dtype, count='add')")
    for name, rule in rules.items():
        if rule not in RULES:
            raise ValueError(f"{name} must be one of {', '.join(RULES)}, not {rule!r}")
        if not name.isidentifier():
            raise ValueError(f"a field must be called as a Python name is, not {name!r}")
    if dtype is None:
        at = [f"{name},{rule},i8,{8 * i},1" for i, (name, rule) in enumerate(rules.items())]
        return f"struct:{8 * len(rules)}:{';'.join(at)}"
    import numpy as np

    record: Any = np.dtype(dtype)
    if record.fields is None or record.names is None:
        raise ValueError(f"dtype must be a structured dtype, not {record}")
    missing = sorted(set(record.names) ^ set(rules))
    if missing:
        raise ValueError(f"dtype and rules differ: {missing[0]!r} is only in one of them")
    parts = []
    for name in sorted(record.names, key=lambda name: record.fields[name][1]):
        kind, shape = record.fields[name][0].base, record.fields[name][0].shape
        if kind.str[0] == ">":
            raise ValueError(f"{name} must be little-endian, not {kind.str}")
        count = 1
        for n in shape:
            count *= n
        parts.append(f"{name},{rules[name]},{kind.str[1:]},{record.fields[name][1]},{count}")
    return f"struct:{record.itemsize}:{';'.join(parts)}"


def _struct_fields(text: str) -> tuple[int, list[tuple[str, str, str, int, int]]]:
    """Width, and of each field: name, rule, type, offset, elements."""
    _, width, rest = text.split(":", 2)
    fields = []
    for field in rest.split(";"):
        name, rule, kind, offset, count = field.split(",")
        fields.append((name, rule, kind, int(offset), int(count)))
    return int(width), fields


class HyperLogLog(Operator):
    """Counts different elements, about, in at most 2**precision + 16 bytes a key.

    An operand is an element, any bytes, or a whole sketch of the same precision, such as a value
    read elsewhere (one of another precision is a ValueError). The value is a sketch, of which
    `estimate` tells the number. Standard error 1.04 / sqrt(2**precision): 0.8 % for the default
    precision 14; from 4 to 18. A sketch of few elements is small, 4 bytes each.

    After Flajolet et al. (2007), with the estimator of Ertl (2017).
    """

    def __init__(self, precision: int = 14) -> None:
        if not isinstance(precision, int) or isinstance(precision, bool):
            raise TypeError(f"precision must be an int, not {type(precision).__name__}")
        self._make(f"hyperloglog:{precision}")

    @property
    def precision(self) -> int:
        """A sketch has 2**precision registers."""
        return int(self.text.partition(":")[2])

    @staticmethod
    def estimate(value: Buffer) -> float:
        """How many different elements the sketch has seen, about. ValueError for other bytes."""
        return core.hll_estimate(value)

    def __repr__(self) -> str:
        return f"HyperLogLog(precision={self.precision})"


class Custom(Operator):
    """Merges by a function of one's own: `fn(old: bytes | None, operand: bytes) -> bytes`.

    It is applied from the oldest operand to the newest; `old` is None where there is no value.
    `name` is stored (up to 255 bytes of UTF-8, no control characters), and whoever opens the store
    gives the function again. With `associative=True` it may also be called with two operands,
    `fn(older, newer)`, to make one that stands for both; then operands are folded before the value
    is known.

    The function must depend on nothing but its arguments, and must not use the store: it is called
    by whatever thread folds, under the GIL. What it raises is raised by the read that called it; a
    flush or compaction leaves the operands as they are, and reports.
    """

    _function: Callable[[bytes | None, bytes], bytes] | None
    _associative: bool

    def __init__(
        self,
        name: str,
        fn: Callable[[bytes | None, bytes], bytes],
        associative: bool = False,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"fn must be a function, not {type(fn).__name__}")
        self._bind(name, fn, bool(associative))

    def _bind(
        self, name: str, fn: Callable[[bytes | None, bytes], bytes] | None, associative: bool
    ) -> Self:
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, not {type(name).__name__}")
        if not 0 < len(name.encode()) <= NAME_BYTES_MAX or not name.isprintable():
            raise ValueError(
                f"name must be 1 to {NAME_BYTES_MAX} bytes of printable characters, not {name!r}"
            )
        self._make(f"custom:{name}", True, fn, associative)
        self._function = fn
        self._associative = associative
        return self

    @classmethod
    def _unbound(cls, name: str) -> Self:
        """As a store names it that is opened without its function: folding is an OptionsError."""
        return cls.__new__(cls)._bind(name, None, False)

    @property
    def name(self) -> str:
        """Under which it is stored."""
        return self.text.partition(":")[2]

    @property
    def associative(self) -> bool:
        """Whether the function may be called with two operands."""
        return self._associative

    def __repr__(self) -> str:
        associative = ", associative=True" if self._associative else ""
        return f"Custom({self.name!r}, {self._function!r}{associative})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._function is None:
            return operator_from_text, (self.text,)
        return type(self), (self.name, self._function, self._associative)


_SIMPLE: dict[str, type[_Simple]] = {
    kind._text: kind for kind in (AddInt64, AddFloat64, MaxInt64, MinInt64, BitOr, Append, Latest)
}


def operator_from_text(text: str) -> Operator:
    """The operator of this stored text. ValueError where this version has none; a `Custom` comes
    without its function."""
    name, _, rest = text.partition(":")
    if text in _SIMPLE:
        return _SIMPLE[text]()
    if name == "custom":
        return Custom._unbound(rest)
    kinds: dict[str, type[Operator]] = {"struct": Struct, "hyperloglog": HyperLogLog}
    if name not in kinds:
        raise ValueError(f"no merge operator of this version: {text!r}")
    made = kinds[name].__new__(kinds[name])
    made._make(text)
    return made


def operator_of(given: Operator | type[Operator]) -> Operator:
    """`given`, or an operator of its class where that needs no arguments: `AddInt64` stands for
    `AddInt64()`. TypeError for anything else."""
    if isinstance(given, type) and issubclass(given, (_Simple, HyperLogLog)):
        given = given()
    if not isinstance(given, Operator):
        raise TypeError(f"not an operator of lsmkit.merge: {given!r}")
    return given
