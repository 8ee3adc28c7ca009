"""What the commands of the command line have in common."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

Words = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides of the config.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the result to this file as JSON.")]


def write_json(path: Path | None, result: Any) -> None:
    """Write a result (a dataclass, or what JSON knows) to a file, if one is given."""
    if path is None:
        return
    is_record = dataclasses.is_dataclass(result) and not isinstance(result, type)
    content = dataclasses.asdict(result) if is_record else result
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, default=str) + "\n")
