"""WEAR as a manifest of the paired source.

Bock et al., "WEAR: An Outdoor Sports Dataset for Wearable and Egocentric Activity Recognition", IMWUT 2024, arXiv
2304.05088: 18 workout activities, 22 people, a head camera (1080p, 60 Hz) and a watch with an accelerometer (50 Hz,
+-8 g) on both wrists and both ankles. The folder, as the authors' server has it::

    ROOT/raw/inertial/50hz/sbj_0.csv
    ROOT/raw/camera/sbj_0.mp4

The columns are sbj_id, {right_arm, right_leg, left_leg, left_arm}_acc_{x, y, z} in g, and label ('null' or nothing
between activities); ``data_creation`` in the authors' code writes them so. There each video is cut to the length of
its synchronised sensors, so sample i lies i / 50 s after the first frame; 'arm' and 'leg' are wrist and ankle.

24 sessions are of 22 people: two were recorded again (README of FedFitTech, by an author of WEAR). That these are
sbj_18 = sbj_0 and sbj_19 = sbj_14 is said only by later users of the data; they are given one subject each.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from imuvid.errors import UserError
from shards.sources.layouts.common import LeftOut, derived_folder, need_folders, runs_of, write_rows, write_segments

RATE_HZ = 50
POSITIONS = {
    "right_arm": "right_wrist",
    "right_leg": "right_ankle",
    "left_leg": "left_ankle",
    "left_arm": "left_wrist",
}
"""Name of a limb in the columns to where its watch is worn."""
SAME_PERSON = {18: 0, 19: 14}
"""Number of a session to that of the person's first."""
INERTIAL, CAMERA = "raw/inertial/50hz", "raw/camera"
HINT = f"{INERTIAL}/sbj_0.csv and {CAMERA}/sbj_0.mp4"


def write_wear_manifest(root: Path, out_csv: Path) -> int:
    """Write a manifest of all sessions that have sensors and a video, and a file of labelled segments of each.

    Args:
        root: folder of the data set; see the module's description.
        out_csv: manifest to write; the segments go to the folder ``NAME_files`` beside it.

    Returns:
        the number of sessions.

    Raises:
        UserError: the folder has another layout or no session, or a file cannot be written.
    """
    need_folders("WEAR", root, (INERTIAL, CAMERA), HINT)
    rows: list[dict[str, str]] = []
    left_out = LeftOut()
    for imu in sorted((root / INERTIAL).glob("*.csv")):
        session = re.fullmatch(r"sbj_(\d+)", imu.stem)
        video = root / CAMERA / f"{imu.stem}.mp4"
        if session is None:
            left_out.add(imu.stem, "is not named like sbj_0.csv")
            continue
        if not video.is_file():
            left_out.add(imu.stem, f"no video of that name in {CAMERA}")
            continue
        try:
            labels = _labels(imu)
        except ValueError as error:
            left_out.add(imu.stem, str(error))
            continue
        activities = [run for run in runs_of(labels) if run[2] != "null"]
        segments = derived_folder(out_csv) / f"{imu.stem}_segments.csv"
        if activities:
            write_segments(segments, activities, RATE_HZ)
        subject = f"sbj_{SAME_PERSON.get(int(session[1]), int(session[1]))}"
        rows += [
            {
                "recording": imu.stem,
                "video": str(video.resolve()),
                "imu": str(imu.resolve()),
                "position": position,
                "subject": subject,
                "segments": str(segments) if activities else "",
                "acc_columns": " ".join(f"{limb}_acc_{axis}" for axis in "xyz"),
            }
            for limb, position in POSITIONS.items()
        ]
    left_out.log()
    if not rows:
        why = "; ".join(left_out.lines()) or "none there"
        raise UserError(f"{root}: no WEAR session can be used, expected {HINT}: {why}")
    write_rows(out_csv, rows)
    return len(rows) // len(POSITIONS)


def _labels(path: Path) -> np.ndarray:
    """Return the label of each sample, 'null' where there is none.

    Raises:
        ValueError: the file cannot be read or has not the columns of the layout; without the name of the file.
    """
    wanted = [f"{limb}_acc_{axis}" for limb in POSITIONS for axis in "xyz"]
    try:
        table = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(use_threads=False),
            convert_options=pyarrow.csv.ConvertOptions(column_types={"label": pa.string()}),
        )
    except (pa.ArrowException, OSError) as error:
        raise ValueError("the sensor file cannot be read as CSV") from error
    missing = [name for name in [*wanted, "label"] if name not in table.column_names]
    if missing:
        raise ValueError(f"the sensor file has no column '{missing[0]}'")
    if table.num_rows == 0:
        raise ValueError("the sensor file holds no sample")
    return np.array([label or "null" for label in table["label"].to_pylist()])
