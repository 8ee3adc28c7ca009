"""Typed configurations: dataclasses give the fields and defaults, YAML and ``key=value`` words override them.

Every component has one dataclass beside it. Here they are read, checked and written, and nowhere else.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from imuvid.errors import UserError

T = TypeVar("T")
_BASE_60 = re.compile(r"\d+(:\d+)+")
"""What YAML 1.1 would read as a number in base 60, and nobody means so: 10:20 is a range."""


def load(cls: type[T], path: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """Return an instance of the dataclass ``cls``: its defaults, then the YAML file, then ``key=value`` words.

    Args:
        cls: a dataclass whose fields may be dataclasses themselves.
        path: a YAML file, or None for the defaults alone.
        overrides: words such as ``train.epochs=3``; later ones win.

    Raises:
        UserError: the file is missing or is not YAML, a key is unknown (names the nearest known one), a value
            has the wrong type or a mandatory value is missing.
    """
    config = OmegaConf.structured(cls)
    if path is not None:
        config = _merge(cls, config, _read_yaml(Path(path)), str(path))
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals or not key.strip():
            raise UserError(f"'{word}' is not an override: write key=value, for example train.epochs=3")
        try:
            override = OmegaConf.from_dotlist([f"{key}='{value}'" if _BASE_60.fullmatch(value) else word])
        except (YAMLError, OmegaConfBaseException) as error:
            raise UserError(f"'{word}' cannot be read: {_first_line(error)}") from error
        config = _merge(cls, config, override, f"'{word}'")
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise UserError(
                f"{path or cls.__name__}: no value for {', '.join(missing)}: set it in the file or as key=value"
            )
        instance = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise UserError(f"{path or cls.__name__}: {_first_line(error)}") from error
    assert isinstance(instance, cls)
    return instance


def to_dict(config: Any) -> dict[str, Any]:
    """Return the config dataclass as plain dicts, lists and scalars (what JSON and YAML can hold)."""
    container = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, enum_to_str=True)
    assert isinstance(container, dict)
    return container  # type: ignore[return-value]


def to_yaml(config: Any) -> str:
    """Return the resolved config as YAML that :func:`load` reads back to an equal instance."""
    return OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)


def _read_yaml(path: Path) -> DictConfig:
    if not path.is_file():
        raise UserError(f"{path}: there is no such config file")
    try:
        loaded = OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not valid YAML: {_first_line(error)}") from error
    if loaded is None or (isinstance(loaded, DictConfig) and not loaded):
        return OmegaConf.create({})
    if not isinstance(loaded, DictConfig):
        raise UserError(f"{path}: must hold key: value pairs, not a list or a single value")
    return loaded


def _merge(cls: type, config: DictConfig, changes: DictConfig, where: str) -> DictConfig:
    try:
        merged = OmegaConf.merge(config, changes)
    except ConfigKeyError as error:
        raise UserError(f"{where}: {_unknown_key(cls, error)}") from error
    except (OmegaConfBaseException, ValueError) as error:
        key = getattr(error, "full_key", None)
        raise UserError(f"{where}: {key + ': ' if key else ''}{_first_line(error)}") from error
    assert isinstance(merged, DictConfig)
    return merged


def _unknown_key(cls: type, error: ConfigKeyError) -> str:
    full = str(error.full_key)
    known = list(_keys(cls))
    near = difflib.get_close_matches(full, known, n=1, cutoff=0.5)
    if not near:
        leaf = full.rsplit(".", 1)[-1]
        by_leaf = {key.rsplit(".", 1)[-1]: key for key in reversed(known)}
        near = [by_leaf[match] for match in difflib.get_close_matches(leaf, list(by_leaf), n=1, cutoff=0.6)]
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"unknown key '{full}'{hint}"


def _keys(cls: type, prefix: str = "") -> list[str]:
    keys = []
    for field in dataclasses.fields(cls):
        default: Any = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        keys.append(prefix + field.name)
        if dataclasses.is_dataclass(default) and not isinstance(default, type):
            keys.extend(_keys(type(default), f"{prefix}{field.name}."))
    return keys


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
