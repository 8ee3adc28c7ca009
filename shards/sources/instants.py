"""Absolute time stamps: ISO 8601 text and seconds since 1970, in whole nanoseconds."""

from __future__ import annotations

import re
from decimal import Decimal

import numpy as np

_ISO = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?)\s*(Z|UTC|[-+]\d\d(?::?\d\d)?)?", re.IGNORECASE
)
_NUMBER = re.compile(r"\d+(\.\d*)?([eE]\+?\d+)?")
_MAX_EPOCH_S = 1e10  # the year 2286; larger numbers are other units


def parse_iso(text: str) -> tuple[int, bool]:
    """Return (nanoseconds since 1970, whether a time zone is given) of a date and time of ISO 8601, extended format.

    Without a zone they count from 1970-01-01 00:00 of the same unknown zone.

    Raises:
        ValueError: the text is no such date and time.
    """
    match = _ISO.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"'{text[:40]}' is no date and time such as 2024-05-17T10:30:00.25+02:00")
    date, clock, zone = match.groups()
    try:
        stamp = int(np.datetime64(f"{date}T{clock.replace(',', '.')}", "ns").astype(np.int64))
    except ValueError as error:
        raise ValueError(f"'{text[:40]}' is no date and time that exists") from error
    if zone is None:
        return stamp, False
    if zone[0] in "+-":
        digits = zone[1:].replace(":", "").ljust(4, "0")
        minutes = 60 * int(digits[:2]) + int(digits[2:])
        stamp -= (1 if zone[0] == "+" else -1) * minutes * 60 * 10**9
    return stamp, True


def parse_instant(text: str) -> tuple[int, bool]:
    """Return (nanoseconds since 1970, whether the time zone is known) of ISO 8601 text or of seconds since 1970 (UTC).

    Raises:
        ValueError: the text is neither, or the number is too large for seconds.
    """
    if _NUMBER.fullmatch(text.strip()) is None:
        return parse_iso(text)
    seconds = Decimal(text.strip())
    if seconds > _MAX_EPOCH_S:
        raise ValueError(f"'{text[:40]}' is too large for seconds since 1970: divide it, or write the date and time")
    return int(seconds * 10**9), True
