"""The table of public data sets as lines for a terminal, as records, and as the table of the documentation."""

from __future__ import annotations

from typing import Any

from imuvid.ood.datasets.catalog import CARDS
from imuvid.ood.datasets.common_labels import common_label
from imuvid.ood.datasets.recording import Card, default_positions

COLUMNS = (
    *("name", "data set", "people", "recordings", "hours", "Hz", "sensors", "positions", "labels", "licence"),
    *("how to get it", "tried on the published files"),
)


def records() -> list[dict[str, Any]]:
    """Return what is known of each data set, as JSON knows it."""
    return [
        {
            "name": card.key,
            "title": card.title,
            "population": card.population,
            "subjects": card.subjects,
            "recordings": card.recordings,
            "hours": card.hours,
            "rate_hz": list(card.rate_hz),
            "sensors": card.sensors,
            "positions": list(card.positions),
            "default_positions": default_positions(card),
            "labels": list(card.labels),
            "common_labels": sorted({common for name in card.labels if (common := common_label(name)) is not None}),
            "positive": card.positive,
            "licence": card.licence,
            "citation": card.citation,
            "homepage": card.homepage,
            "downloads": [download.url for download in card.downloads],
            "steps": card.steps,
            "tried_on_published_files": card.seen,
            "note": card.note,
        }
        for card in CARDS.values()
    ]


def list_lines() -> list[str]:
    """Return one line a data set, in columns."""
    rows = [("name", "people", "hours", "Hz", "positions", "labels", "get", "data set")]
    for card in CARDS.values():
        get = "fetch" if card.downloads else "by hand"
        labels = str(len(card.labels)) if card.labels else "files"
        places = ", ".join(card.positions[:3]) + (", ..." if len(card.positions) > 3 else "")
        row = (card.key, _number(card.subjects), _number(card.hours), _rate(card), places, labels, get, card.title)
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def markdown_table() -> list[str]:
    """Return the lines of the table in docs/ood_datasets.md."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for card in CARDS.values():
        labels = ", ".join(card.labels) or "as the folders name them"
        get = f"`imuvid datasets fetch {card.key}`" if card.downloads else card.steps
        cells = (
            f"`{card.key}`",
            f"[{card.title}]({card.homepage}): {card.population}. {card.citation}",
            _number(card.subjects),
            _number(card.recordings),
            _number(card.hours),
            _rate(card),
            card.sensors,
            ", ".join(f"**{p}**" if p in default_positions(card) else p for p in card.positions),
            labels,
            card.licence,
            get,
            "yes" if card.seen else "no",
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _rate(card: Card) -> str:
    low, high = card.rate_hz
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"


if __name__ == "__main__":
    print("\n".join(markdown_table()))
