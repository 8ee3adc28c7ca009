"""The first sheet of an Excel workbook (.xlsx) as a table: a ZIP archive of XML (ECMA-376, Office Open XML)."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from imuvid.errors import UserError
from imuvid.ood.datasets.tables import AGAIN, Table, read_content

MAX_SHEET_BYTES = 2**30
"""Largest unpacked size of a sheet that is read."""
_NAMESPACE = re.compile(r"\{.*\}")


def read_xlsx(source: Path) -> Table:
    """Read a sheet whose first row names the columns; a cell that is empty or no number is NaN.

    Raises:
        UserError: the file is missing, damaged or no workbook, or has no row of data.
    """
    data = read_content(source)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            sheets = sorted(name for name in archive.namelist() if re.fullmatch(r"xl/worksheets/sheet\d+\.xml", name))
            if not sheets or archive.getinfo(sheets[0]).file_size > MAX_SHEET_BYTES:
                raise UserError(f"{source}: there is no sheet of a readable size in it: it is not the published file")
            texts = _texts(archive)
            rows = list(_rows(archive.open(sheets[0]), texts))
    except (zipfile.BadZipFile, ElementTree.ParseError, zlib.error, EOFError, OSError, ValueError) as error:
        raise UserError(f"{source}: cannot be read as .xlsx ({str(error)[:80]}): {AGAIN}") from error
    if len(rows) < 2:
        raise UserError(f"{source}: the sheet has no row of data: {AGAIN}")
    names = {column: str(value) for column, value in rows[0].items()}
    values = np.full((len(rows) - 1, len(names)), np.nan)
    place = {column: i for i, column in enumerate(names)}
    for i, row in enumerate(rows[1:]):
        for column, value in row.items():
            if column in place and isinstance(value, float):
                values[i, place[column]] = value
    return Table(source, {name: values[:, place[column]] for column, name in names.items()})


def _texts(archive: zipfile.ZipFile) -> list[str]:
    """Return the strings that cells refer to by number."""
    if "xl/sharedStrings.xml" not in archive.namelist():
        return []
    root = ElementTree.parse(archive.open("xl/sharedStrings.xml")).getroot()
    return ["".join(part.text or "" for part in item.iter() if _tag(part) == "t") for item in root]


def _rows(sheet, texts: list[str]):
    """Yield the rows in order: letters of the column to a number or a text."""
    for _, element in ElementTree.iterparse(sheet):
        if _tag(element) != "row":
            continue
        row: dict[str, float | str] = {}
        for number, cell in enumerate(element):
            reference = re.match(r"[A-Z]+", cell.get("r", ""))
            column = reference[0] if reference else str(number)
            kind = cell.get("t", "n")
            text = "".join(part.text or "" for part in cell.iter() if _tag(part) in ("v", "t"))
            if not text:
                continue
            if kind == "s":
                row[column] = texts[int(text)]
            else:
                row[column] = float(text) if kind in ("n", "b") else text
        element.clear()
        yield row


def _tag(element: ElementTree.Element) -> str:
    return _NAMESPACE.sub("", element.tag)
