"""What ego4d.json and the lists of videos say: who wore the camera, and which split each person is in."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imuvid.data.dataset_tables import SPLITS
from imuvid.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Video:
    """One canonical video, as ego4d.json knows it."""

    uid: str
    subject: str | None
    """fb_participant_id; None where it is not known."""
    university: str
    has_imu: bool
    stereo: bool
    """Whether the picture holds a left and a right view."""
    duration_s: float | None
    """None where ego4d.json does not say."""

    @property
    def person(self) -> tuple[str, str]:
        """What must not be in two splits: the participant or, where not known, the video."""
        return ("video", self.uid) if self.subject is None else ("subject", self.subject)


@dataclass(frozen=True)
class PersonSplits:
    """What the split files come to."""

    listed: frozenset[str]
    """Uids that a split file names."""
    of_person: dict[tuple[str, str], str]
    """train, val or test, by ``Video.person``."""


def read_metadata(root: Path) -> list[Video]:
    """Return the videos of ROOT/ego4d.json.

    Raises:
        UserError: it is missing, damaged, or of another form.
    """
    path = root / "ego4d.json"
    if not path.is_file():
        raise UserError(f"ego4d.root: there is no {path}: give the --output_directory of the ego4d tool")
    try:
        videos = [_video(fields) for fields in _read_json(path)["videos"]]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        problem = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: is no ego4d.json of Ego4D v1 or v2: {problem}") from error
    return videos


def _video(fields: Mapping[str, Any]) -> Video:
    subject, duration_s = fields.get("fb_participant_id"), fields.get("duration_sec")
    if isinstance(subject, float):  # a table with empty cells makes floats of its integers
        subject = int(subject) if subject.is_integer() else None
    uid = fields["video_uid"]
    # The uid becomes a file name.
    if not isinstance(uid, str) or not uid or uid.startswith(".") or "/" in uid:
        raise ValueError(f"video_uid {uid!r}")
    return Video(
        uid=uid,
        subject=None if subject is None or subject == "" else str(subject),
        university=str(fields.get("video_source") or "unknown"),
        has_imu=bool(fields.get("has_imu")),
        stereo=bool(fields.get("is_stereo")),
        duration_s=float(duration_s) if duration_s is not None else None,
    )


def split_by_person(files: Mapping[str, str], videos: Sequence[Video]) -> PersonSplits:
    """Read the split files and make them disjoint by person: who is held out anywhere is held out with all videos.

    Args:
        files: train, val, test -> file; any of them may be missing.
        videos: all of ego4d.json, those without IMU too: a person may be held out by one of them.

    Raises:
        UserError: a key is no split, or what :func:`read_uids` raises.
    """
    for name in files:
        if name not in SPLITS:
            raise UserError(f"ego4d.split_files: '{name}' is none of {', '.join(SPLITS)}")
    by_split = {name: read_uids(f"ego4d.split_files.{name}", path, videos) for name, path in files.items()}
    of_person: dict[tuple[str, str], str] = {}
    for name in SPLITS:  # later ones win: train, val, test
        of_person |= {video.person: name for video in videos if video.uid in by_split.get(name, ())}
    return PersonSplits(frozenset().union(*by_split.values()), of_person)


def read_uids(key: str, file: str, videos: Sequence[Video]) -> frozenset[str]:
    """Return the uids of a list that are in ego4d.json: JSON list, annotation file, or text with one a line.

    Args:
        key: of the config, for messages.
        file: a JSON file is searched for lists of uids and, at any depth, for entries ``video_uid``.

    Raises:
        UserError: the file is missing or damaged, or names no video of ego4d.json.
    """
    path = Path(file).expanduser()
    try:
        if path.suffix.lower() == ".json":
            content = _read_json(path)
            uids = {uid for uid in content if isinstance(uid, str)} if isinstance(content, list) else set()
            uids |= set(_video_uids(content))
        else:
            uids = set(path.read_text(encoding="utf-8-sig").split())
    except FileNotFoundError as error:
        raise UserError(f"{key}: there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a list of videos ({key}): {error}") from error
    known = frozenset(uids & {video.uid for video in videos})
    if not known:
        raise UserError(f"{path}: names no video of ego4d.json ({key}): give video_uids, one a line or as JSON")
    if len(known) < len(uids):
        logger.warning("%s: %d of its %d videos are not in ego4d.json", path, len(uids) - len(known), len(uids))
    return known


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error


def _video_uids(content: Any) -> Iterator[str]:
    """Yield the values of all ``video_uid`` in a JSON document."""
    open_ends = [content]
    while open_ends:
        part = open_ends.pop()
        if isinstance(part, dict):
            if isinstance(part.get("video_uid"), str):
                yield part["video_uid"]
            open_ends.extend(part.values())
        elif isinstance(part, list):
            open_ends.extend(part)
