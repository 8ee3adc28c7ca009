"""Recordings that a manifest pairs: a video, and one or more IMU files on its clock.

The manifest is a CSV file with a header and one row an IMU file. Rows of the same ``recording`` are its sensors; two
rows of one ``position`` may give its accelerometer and its gyroscope, at rates of their own. Columns of the recording:

    recording    name; required
    video        video file; may be empty for datasets without frames
    subject      who
    split        train, val or test, where the data set has lists of its own; else by the config
    label        what, where the whole recording is one thing
    segments     CSV file of start_s,end_s,label (seconds after the first video frame, no overlaps): labelled stretches
    text         narration
    video_start  when the first video frame was taken, ISO 8601 (2024-05-17T10:30:00.25+02:00) or seconds since 1970:
                 the time stamps of the IMU are then absolute times as well

Columns of the sensor:

    imu          text (.csv, .tsv, .txt), Parquet, NPY, NPZ or MAT file; required
    key          variable of a MAT or NPZ file
    skip_rows    lines of a text file before its header; comment lines (# or %) and delimiters are found out
    position     where on the body the sensor is
    camera       yes where the sensor is fixed to the camera, by which synchrony can be checked; else no
    rate_hz      of samples at a constant rate, or else:
    time_column, time_unit  name or index of the time stamps; s, ms, us, ns, or iso (dates and times as text)
    offset_s     added to the times of the samples to get to the video's clock (first frame = 0), seconds
    acc_columns, gyro_columns  x y z: names or indices, separated by spaces
    acc_unit, gyro_unit  m/s2, g or mg; rad/s or deg/s
    acc_sensitivity, gyro_sensitivity  of raw counts: how many make one unit, as in data sheets (16384 counts a g)
    acc_range, gyro_range  largest reading of an axis in the unit (8 for +-8 g), by which saturation is found
    axes         which axes of the sensor are x, y and z of the body, such as "-y x z"
    left_handed  yes where axes is meant to be a reflection, as of an accelerometer that reads -1 g upwards

A column that is missing or a cell that is empty has the value of the config, where it has one.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import MISSING

from imuvid.data.dataset_tables import SPLITS
from imuvid.errors import UserError
from shards.places import names_of_places
from shards.sources.base import Recording, RecordingError, RecordingRef, Segment, Stream
from shards.sources.segments import read_segments
from shards.sources.sensor_file import OF_SENSOR, SensorFile, SensorFileConfig
from shards.video import probe

REQUIRED = ("recording", "imu")
OF_RECORDING = ("video", "subject", "split", "label", "segments", "text", "video_start")


@dataclass
class PairedConfig(SensorFileConfig):
    """The manifest, and the values of what it leaves out."""

    manifest: str = MISSING
    """CSV file; see :mod:`shards.sources.paired`."""
    root: str | None = None
    """Folder that the files in the manifest are relative to; null = the manifest's own."""
    camera: bool = False
    """Whether the sensor is fixed to the camera."""


class PairedSource:
    """The recordings of a :class:`PairedConfig`; see :class:`shards.sources.base.Source`."""

    def __init__(self, config: PairedConfig):
        self.config = config

    def list(self) -> list[RecordingRef]:
        """Return one reference a recording of the manifest, sorted by name.

        A row that is there twice gives a second reference of the same name, for the build to count as a duplicate.

        Raises:
            UserError: the manifest is missing, empty or unreadable, or has unknown or missing columns.
        """
        rows: dict[str, list[dict[str, str]]] = {}
        repeated: list[str] = []
        for row in _rows(self.config):
            known = rows.setdefault(row["recording"], [])
            if row in known:
                repeated.append(row["recording"])
            else:
                known.append(row)
        refs = [RecordingRef(name, {"rows": rows[name]}) for name in sorted(rows)]
        first: dict[Path, str] = {}
        for ref in refs:
            video = _common(ref.payload["rows"], "video")
            ref.payload["video"] = str(_path(self.config, video)) if video else ""
            named = [row[column] for row in ref.payload["rows"] for column in ("imu", "segments") if row[column]]
            ref.payload["files"] = [str(_path(self.config, name)) for name in named]
            if video and first.setdefault(_path(self.config, video), ref.name) != ref.name:
                ref.payload["same_video_as"] = first[_path(self.config, video)]
        refs += [RecordingRef(name, {"rows": []}) for name in repeated]
        return sorted(refs, key=lambda ref: ref.name)

    def open(self, ref: RecordingRef) -> Recording:
        """Read the IMU files of a recording and the times of its video.

        Raises:
            RecordingError: ``duplicate``, ``conflicting_rows``, ``bad_manifest``, ``bad_unit``, ``bad_axes``,
                ``bad_time``, ``time_backwards``, ``bad_shape``, ``bad_segments`` or what the files' readers raise.
        """
        rows, video = ref.payload["rows"], ref.payload["video"]
        if "same_video_as" in ref.payload:
            other = ref.payload["same_video_as"]
            raise RecordingError("duplicate", f"{video}: is the video of recording '{other}' too: give each its own")
        for column in OF_RECORDING:
            found = sorted({row[column] for row in rows})
            if len(found) > 1:
                raise RecordingError("conflicting_rows", f"its rows disagree on {column}: {' / '.join(found)}")
        info = probe(Path(video)) if video else None
        streams: dict[str, Stream] = {}
        ends_s, offsets_s, on_camera = [], [], set()
        for row in rows:
            sensor = SensorFile(_path(self.config, row["imu"]), self.config, row, row["video_start"])
            stream = sensor.read()
            known = streams.setdefault(stream.position, Stream(stream.position))
            for name in ("acc", "gyro"):
                signal = getattr(stream, name)
                if signal is None:
                    continue
                if getattr(known, name) is not None:
                    twice = f"two files give the {name} at '{stream.position}', one is {row['imu']}"
                    raise RecordingError("conflicting_rows", twice)
                setattr(known, name, signal)
                setattr(known, f"{name}_range", getattr(stream, f"{name}_range"))
                ends_s.append(float(signal.times_s[-1] + np.median(np.diff(signal.times_s))))
            offsets_s.append(sensor.offset_s)
            if sensor.yes("camera"):
                on_camera.add(stream.position)
        if len(on_camera) > 1:
            both = " and ".join(f"'{position}'" for position in sorted(on_camera))
            raise RecordingError("conflicting_rows", f"its rows fix sensors at {both} to the camera")
        duration_s = info.duration_s if info else max(ends_s)
        label, listed = rows[0]["label"], rows[0]["segments"]
        if label and listed:
            manifest = self.config.manifest
            raise RecordingError("bad_manifest", f"{manifest}: give '{ref.name}' a label or segments, not both")
        shown = {"label": label, "text": rows[0]["text"], "position": list(streams)}
        for place in names_of_places(shown):
            raise RecordingError("bad_manifest", f"{self.config.manifest}: '{ref.name}': {place}")
        segments = [Segment(0.0, duration_s, label)] if label else []
        if listed:
            segments = read_segments(_path(self.config, listed), duration_s)
        return Recording(
            name=ref.name,
            source="paired",
            streams=list(streams.values()),
            duration_s=duration_s,
            video=Path(video) if video else None,
            subject=rows[0]["subject"] or None,
            split=_split(rows[0]),
            segments=segments,
            text=rows[0]["text"] or None,
            sync_offset_s=float(np.mean(offsets_s)),
            camera_position=on_camera.pop() if on_camera else None,
        )


def _split(row: dict[str, str]) -> str | None:
    if row["split"] not in ("", *SPLITS):
        raise RecordingError(
            "bad_manifest", f"{row['recording']}: split '{row['split']}' is none of {', '.join(SPLITS)}"
        )
    return row["split"] or None


def _rows(config: PairedConfig) -> list[dict[str, str]]:
    path = Path(config.manifest).expanduser()
    known = ("recording", *OF_RECORDING, *OF_SENSOR)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            lines = list(reader)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such manifest (source.paired.manifest)") from error
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a CSV manifest: {error}") from error
    unknown = sorted(set(header) - set(known))
    if unknown:
        raise UserError(f"{path}: unknown column '{unknown[0]}', known are {', '.join(known)}")
    for name in REQUIRED:
        if name not in header:
            raise UserError(f"{path}: has no column '{name}'")
    rows = []
    for number, line in enumerate(lines, start=2):
        if None in line or None in line.values():
            raise UserError(f"{path}: line {number} does not have the {len(header)} cells of the header")
        row = dict.fromkeys(known, "") | {name: (value or "").strip() for name, value in line.items()}
        if not row["recording"] or not row["imu"]:
            raise UserError(f"{path}: line {number} names no recording or no imu file")
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: lists no recording")
    return rows


def _common(rows: list[dict[str, str]], column: str) -> str:
    return Counter(row[column] for row in rows).most_common(1)[0][0]


def _path(config: PairedConfig, name: str) -> Path:
    manifest = Path(config.manifest).expanduser()
    root = Path(config.root).expanduser() if config.root else manifest.parent
    return root / name
