"""The commands ``imuvid datasets ...``: which public data sets there are, how to get them, whether a copy is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from launcher.options import JsonFile, write_json

datasets_app = typer.Typer(no_args_is_help=True, help="Public data sets of the out-of-distribution evaluation.")

Key = Annotated[str, typer.Argument(metavar="NAME", help="Data set, as imuvid datasets list names it.")]


@datasets_app.command("list")
def datasets_list(json_file: JsonFile = None) -> None:
    """List the public data sets that have a reader.

    Example: imuvid datasets list
    """
    from imuvid.ood.datasets.describe import list_lines, records

    for line in list_lines():
        print(line)
    write_json(json_file, records())


@datasets_app.command("fetch")
def datasets_fetch(
    name: Key,
    folder: Annotated[Path | None, typer.Argument(metavar="[FOLDER]", help="Where it goes; else data/NAME.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Download a data set from its publisher where its terms allow that, else print the steps. Goes on after a break.

    Example: imuvid datasets fetch pamap2 /data/pamap2
    """
    from imuvid.ood.datasets.catalog import find_card
    from imuvid.ood.datasets.fetch import fetch

    report = fetch(find_card(name), folder or Path("data") / name)
    for line in report.lines():
        print(line)
    write_json(json_file, report)


@datasets_app.command("check")
def datasets_check(
    name: Key,
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="Its folder; else NAME under $IMUVID_REALDATA.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Read all of a local copy and compare people, recordings and hours with the published ones. Exit 1 if any differs.

    Example: imuvid datasets check hapt /data/hapt
    """
    from imuvid.ood.datasets.base import data_folder
    from imuvid.ood.datasets.catalog import find_card
    from imuvid.ood.datasets.check import check

    card = find_card(name)
    report = check(card, folder or data_folder(None, card.key))
    for line in report.lines():
        print(line)
    write_json(json_file, report)
    if not report.ok:
        raise typer.Exit(1)
