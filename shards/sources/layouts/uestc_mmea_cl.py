"""UESTC-MMEA-CL as a manifest of the paired source.

Xu et al., "Towards Continual Egocentric Activity Recognition: A Multi-Modal Egocentric Activity Dataset for Continual
Learning", IEEE Transactions on Multimedia 2023, doi 10.1109/TMM.2023.3295899: 32 activities, 10 people, glasses with a
camera and an inertial sensor, both at 25 Hz. The folder, as the authors publish it (README of their code)::

    ROOT/train.txt  val.txt  test.txt
    ROOT/video/27_open_close_door/27_open_close_door_2022_05_05_16_05_51.mp4
    ROOT/sensor/27_open_close_door/27_open_close_door_2022_05_05_16_05_51.csv

A sensor file has no header and six columns of raw counts, accelerometer x y z and gyroscope x y z, one line a frame
(the authors' lists give both numbers; those looked at differ by one at most). So sample i belongs to frame i.

Sources disagree about the accelerometer: the authors' code divides by 8192 counts a g (a range of +-4 g), later users
of the data divide by 16384 (+-2 g). The counts themselves decide: at the middle of a clip the glasses feel gravity, so
the median of |acc| is near 8192 or near 16384. All agree on 16.4 counts a deg/s (+-2000 deg/s). The file names hold no
person, so no subject is known.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from imuvid.errors import UserError
from shards.sources.base import RecordingError
from shards.sources.imu_files import read_columns
from shards.sources.layouts.common import LeftOut, need_folders, write_rows

ACC_SENSITIVITIES = (16384, 8192)
"""Published counts a g."""
GYRO_SENSITIVITY = 16.4
"""Published counts a deg/s."""
GRAVITY_TOLERANCE = 1.25
"""Largest factor by which the median of |acc| of a clip may miss 1 g."""
FULL_SCALE = 32767
"""Largest count of 16 bits."""
HINT = "sensor/27_open_close_door/*.csv and video/27_open_close_door/*.mp4"


def write_uestc_mmea_cl_manifest(root: Path, out_csv: Path) -> int:
    """Write a manifest of all clips that have a sensor file that can be read and a video.

    Args:
        root: folder of the data set; see the module's description.
        out_csv: manifest to write; it names the files by absolute paths.

    Returns:
        the number of clips.

    Raises:
        UserError: the folder has another layout or no clip, or the manifest cannot be written.
    """
    need_folders("UESTC-MMEA-CL", root, ("sensor", "video"), HINT)
    rows: list[dict[str, str]] = []
    left_out = LeftOut()
    for imu in sorted((root / "sensor").glob("*/*.csv")):
        activity = re.fullmatch(r"(\d+)_(\w+)", imu.parent.name)
        if activity is None:
            left_out.add(imu.stem, "its folder is not named like 27_open_close_door")
            continue
        video = root / "video" / imu.parent.name / f"{imu.stem}.mp4"
        if not video.is_file():
            left_out.add(imu.stem, "no video of that name")
            continue
        try:
            sensitivity = _acc_sensitivity(imu)
        except RecordingError as error:
            left_out.add(imu.stem, f"the sensor file cannot be used ({error.reason})")
            continue
        rows.append(
            {
                "recording": imu.stem,
                "video": str(video.resolve()),
                "imu": str(imu.resolve()),
                "label": activity[2],
                "acc_sensitivity": str(sensitivity),
                "acc_range": f"{FULL_SCALE / sensitivity:g}",
            }
        )
    left_out.log()
    if not rows:
        why = "; ".join(left_out.lines()) or "none there"
        raise UserError(f"{root}: no UESTC-MMEA-CL clip can be used, expected {HINT}: {why}")
    write_rows(out_csv, rows)
    return len(rows)


def _acc_sensitivity(path: Path) -> int:
    """Return the published sensitivity (counts a g) by which the sensor of a file feels gravity.

    Raises:
        RecordingError: the file cannot be read or has not six columns of numbers; ``implausible_acc``.
    """
    table = read_columns(path)
    if table.names or table.count != 6:
        raise RecordingError("bad_shape", f"{path}: expected six columns of counts without a header")
    acc = np.stack([table.column(str(axis)) for axis in range(3)], axis=1).astype(np.float64)
    middle = float(np.median(np.linalg.norm(acc, axis=1)))
    for sensitivity in ACC_SENSITIVITIES:
        if sensitivity / GRAVITY_TOLERANCE < middle < sensitivity * GRAVITY_TOLERANCE:
            return sensitivity
    raise RecordingError(
        "implausible_acc", f"{path}: the median of |acc| is {middle:.0f} counts, near no published sensitivity"
    )
