"""Frozen records: classes of named values that are dataclasses only to those who ask.

Importing `dataclasses` costs about 10 ms, as long as everything else of the package together, and
hardly any program that opens a store needs it. A record is written as a dataclass would be and is
one to a type checker; at run time `dataclasses.fields`, `replace`, `asdict`, `is_dataclass` and
`copy.replace` find what they look for through two attributes that are made when first read.

    @record(frozen=True, kw_only=True)
    class Point(Record):
        x: int
        y: int = 0

Always     fields are keywords, in the order in which they stand, without those of base classes;
           a record is immutable, equal and hashed by its fields, and can be pickled and copied.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from dataclasses import dataclass as record
    from typing import Any, ClassVar, NoReturn

    from typing_extensions import Self
else:

    def record(**_claims):
        """The decorator: notes the fields of the class, and their defaults."""

        def note(cls):
            cls._names = tuple(
                name
                for name, kind in cls.__annotations__.items()
                if not kind.startswith("ClassVar")
            )
            cls._defaults = {
                name: cls.__dict__[name] for name in cls._names if name in cls.__dict__
            }
            cls.__match_args__ = ()
            return cls

        return note


__all__ = ["Record", "check_choice", "check_float", "check_int", "record"]


class _Twin:
    """A class attribute that a real dataclass of the same fields has; made when first read."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type[Record]) -> Any:
        from dataclasses import field, make_dataclass

        fields: list[Any] = [
            (name, owner.__annotations__[name], field(default=owner._defaults[name]))
            if name in owner._defaults
            else (name, owner.__annotations__[name])
            for name in owner._names
        ]
        # repr=False: the record's own is the one to print by, and pprint believes this claim.
        twin = make_dataclass(owner.__name__, fields, frozen=True, kw_only=True, repr=False)
        made = getattr(twin, self.name)
        setattr(owner, self.name, made)
        return made


class _Signature:
    """`inspect.signature` of the class, made when first asked for."""

    def __get__(self, instance: object, owner: type[Record]) -> Any:
        from inspect import Parameter, Signature

        return Signature(
            [
                Parameter(
                    name,
                    Parameter.KEYWORD_ONLY,
                    default=owner._defaults.get(name, Parameter.empty),
                    annotation=owner.__annotations__[name],
                )
                for name in owner._names
            ]
        )


class Record:
    """The base of all records; see the head of this file."""

    _names: ClassVar[tuple[str, ...]] = ()
    _defaults: ClassVar[Mapping[str, Any]] = {}

    if not TYPE_CHECKING:
        __dataclass_fields__ = _Twin("__dataclass_fields__")
        __dataclass_params__ = _Twin("__dataclass_params__")
        __signature__ = _Signature()

        def __init__(self, **given):
            values = {**self._defaults, **given}
            if values.keys() != set(self._names):
                self._refuse(values)
            for name, value in given.items():
                self._check(name, value)
            self.__dict__.update(values)

    def _refuse(self, values: Mapping[str, Any]) -> NoReturn:
        """Raises TypeError: some names are no field, or some fields have no value."""
        kind = type(self).__name__
        unknown = [name for name in values if name not in self._names]
        if unknown:
            raise TypeError(f"{kind} has no field {unknown[0]!r}; it has {', '.join(self._names)}")
        missing = [name for name in self._names if name not in values]
        raise TypeError(f"{kind} needs {', '.join(missing)}")

    def _check(self, name: str, value: Any) -> None:
        """Raises TypeError or ValueError for what the field cannot be; defaults are not asked."""

    def replace(self, **changes: Any) -> Self:
        """The same record with other values in some fields."""
        return type(self)(**{**self.to_values(), **changes})

    def __replace__(self, **changes: Any) -> Self:
        return self.replace(**changes)

    def to_values(self) -> dict[str, Any]:
        """Name and value of each field; values that are records stay records."""
        return {name: getattr(self, name) for name in self._names}

    def _items(self) -> Iterator[tuple[str, Any]]:
        return ((name, getattr(self, name)) for name in self._names)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(value == getattr(other, name) for name, value in self._items())

    def __hash__(self) -> int:
        return hash((type(self), *(value for _, value in self._items())))

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self._items())
        return f"{type(self).__name__}({inside})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __reduce__(self) -> tuple[Callable[..., Record], tuple[type[Record], dict[str, Any]]]:
        return _remake, (type(self), self.to_values())


def _remake(kind: type[Record], values: dict[str, Any]) -> Record:
    return kind(**values)


def check_int(name: str, value: Any, low: int, high: int, unit: str = "") -> None:
    """`value` must be an int (no bool, no float, no NumPy number) from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not low <= value <= high:
        unit = unit and " " + unit
        raise ValueError(f"{name} must be from {low} to {high}{unit}, not {value}")


def check_float(name: str, value: Any, low: float, high: float) -> None:
    """`value` must be a number from `low` to `high`; an int is one too."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a float, not {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, not {value}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """`value` must be one of some strings."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
