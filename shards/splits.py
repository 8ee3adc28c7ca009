"""What is told of recordings without names: salted identifiers, the split that follows from them, the config."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imuvid.config import to_dict
from imuvid.errors import UserError
from shards.config import BuildConfig, SplitConfig, SubjectsConfig
from shards.embedder import describe_tower

# Of the build and not of its result: a change of these gives the same bytes.
_NOT_CONTENT = ("out", "build", "samples_per_shard")
# Names of the places that recordings lie at; people are often named in them.
_PLACES = ("manifest", "root", "paths", "work_dir", "uids", "split_files", "takes")
# Which recordings there are, not what becomes of each.
_SELECTION = ("num_subjects", "recordings_per_subject", "universities", "max_recordings")


def salted(name: str, salt: str) -> str:
    """Return the 12 hex digits (48 bits of SHA-256) that stand for a name."""
    return hashlib.sha256((salt + name).encode()).hexdigest()[:12]


def salt_of(config: SubjectsConfig) -> str:
    """Return the config's salt or, where it has none, this user's secret one, which is made when first needed.

    Raises:
        UserError: the file of the secret cannot be read or written.
    """
    if config.salt is not None:
        return config.salt
    home = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    path = Path(home) / "imuvid" / "salt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            # Linked into place, so that of two builds that start at once both read the same complete secret.
            fresh = path.with_name(f"salt.{secrets.token_hex(8)}")
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
            try:
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        salt = path.read_text().strip()
    except OSError as error:
        raise UserError(f"{path}: cannot keep the secret salt ({error.strerror}): set subjects.salt") from error
    if len(salt) < 32:
        raise UserError(f"{path}: holds no salt of 32 characters or more: delete it, or set subjects.salt")
    return salt


@dataclass(frozen=True)
class Identities:
    """Maps the plain names of a source to what is stored."""

    salt: str
    split: SplitConfig

    def recording(self, name: str) -> str:
        """Return the identifier of a recording: 'r' and 12 hex digits."""
        return "r" + salted(name, self.salt)

    def subject(self, name: str | None) -> str | None:
        """Return the identifier of a subject: 's' and 12 hex digits; None where the subject is not known."""
        return None if name is None else "s" + salted(name, self.salt)

    def split_of(self, recording: str, subject: str | None, listed: str | None = None) -> str:
        """Return train, val or test of a recording, from the plain names.

        With lists in the config, by them; else by the source's own list (``listed``); else by a hash of the stored
        identifier, so that adding recordings or changing another subject moves no one.
        """
        if self.split.val_subjects or self.split.test_subjects:
            if subject in self.split.test_subjects:
                return "test"
            return "val" if subject in self.split.val_subjects else "train"
        if listed is not None:
            return listed
        identity = self.subject(subject) or self.recording(recording)
        return split_by_hash(identity, self.split.val, self.split.test)


def split_by_hash(identity: str, val: float, test: float) -> str:
    """Return the split of a stored identifier, given the shares of val and test (0 to 1)."""
    place = int.from_bytes(hashlib.sha256(f"split:{identity}".encode()).digest()[:8], "big") / 2**64
    if place < test:
        return "test"
    return "val" if place < test + val else "train"


def public_config(config: BuildConfig, identities: Identities) -> dict[str, Any]:
    """Return what ``dataset.json`` says of the config: no place, no plain name of a subject, no salt.

    ``digest`` stands for all that decides how a recording becomes samples, salt included, but not which recordings
    there are, nor the gates: a dataset can be extended by what another config of the same digest reads.
    """
    fields = to_dict(config)
    for key in _NOT_CONTENT:
        fields.pop(key)
    kind = config.source.kind
    section = {key: value for key, value in fields["source"][kind].items() if key not in _PLACES}
    fields["frames"]["embed_with"] = describe_tower(config.frames)
    fields["source"] = {"kind": kind, kind: {key: v for key, v in section.items() if key not in _SELECTION}}
    deciding = {key: value for key, value in fields.items() if key not in ("gates", "subjects")}
    digest = hashlib.sha256((identities.salt + json.dumps(deciding, sort_keys=True)).encode()).hexdigest()
    fields.pop("subjects")
    fields["source"][kind] = _without_places(section)
    for key in ("val_subjects", "test_subjects"):
        fields["split"][key] = [identities.subject(name) for name in fields["split"][key]]
    return fields | {"digest": digest}


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    return "" if isinstance(value, str) and os.path.isabs(value) else value
