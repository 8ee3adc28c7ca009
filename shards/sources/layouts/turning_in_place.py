"""Turning in place with Parkinson's disease (figshare 14984667) as a manifest of the paired source.

Ribeiro De Souza et al., "A Public Data Set of Videos, Inertial Measurement Unit, and Clinical Scales of Freezing of
Gait in Individuals With Parkinson's Disease During a Turning-In-Place Task", Frontiers in Neuroscience 2022, doi
10.3389/fnins.2022.832463: 35 people turn in place for two minutes, up to three times, with one inertial sensor on the
shank of the more affected side (128 Hz) before a camera on a tripod (30 Hz). IMU.zip and Videos.zip unpack to::

    ROOT/IMU/SUB01_1.txt     tab-separated, with the header of COLUMNS; the .csv beside it is an Excel file in disguise
    ROOT/Videos/PDFE01_1.mp4

SUB01 is PDFE01; _1 is the first turning trial, and SUB01_standing.txt, ten seconds of standing, has no video. Two
videos (PDFE10_3, PDFE30_3) have no sensor file. This is what several readers of the files report alike.

The sensor and the camera share no clock: the sensor's file starts where the acceleration first rises above 5 % of its
largest, the video with the first movement of a foot, and both last about two minutes. The manifest takes both starts
for one instant, which is right to about half a second (one reader's audit of all pairs found lengths that differ by
0.4 s in the median and 7.9 s at most). The freezing flag lies on the sensor's clock.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from imuvid.errors import UserError
from shards.sources.layouts.common import LeftOut, derived_folder, need_folders, runs_of, write_rows, write_segments

RATE_HZ = 128
COLUMNS = (
    "Frame #",
    "Time [s]",
    "ACC ML [g]",
    "ACC AP [g]",
    "ACC SI [g]",
    "GYR ML [deg/s]",
    "GYR AP [deg/s]",
    "GYR SI [deg/s]",
    "Freezing event [flag]",
)
"""Published columns, in order: x is mediolateral, y anteroposterior, z superior-inferior."""
LABELS = ("no_freeze", "freeze")
"""Meaning of the flag's 0 and 1."""
HINT = "IMU/SUB01_1.txt and Videos/PDFE01_1.mp4"


def write_turning_in_place_manifest(root: Path, out_csv: Path) -> int:
    """Write a manifest of all turning trials that have sensor and video.

    Args:
        root: folder of the data set; see the module's description.
        out_csv: manifest to write; the freezing episodes go to the folder ``NAME_files`` beside it.

    Returns:
        the number of trials.

    Raises:
        UserError: the folder has another layout or no trial, or a file cannot be written.
    """
    need_folders("the turning-in-place data set", root, ("IMU", "Videos"), HINT)
    rows: list[dict[str, str]] = []
    left_out = LeftOut()
    for source in sorted((root / "IMU").glob("SUB*.txt")):
        trial = re.fullmatch(r"SUB(\d+)_(\d+)", source.stem)
        if trial is None:
            if not source.stem.endswith("_standing"):
                left_out.add(source.stem, "is not named like SUB01_1.txt")
            continue
        name = f"PDFE{trial[1]}_{trial[2]}"
        video = root / "Videos" / f"{name}.mp4"
        if not video.is_file():
            left_out.add(name, "no video of that name in Videos")
            continue
        try:
            flags = _flags(source)
        except ValueError as error:
            left_out.add(name, str(error))
            continue
        segments = derived_folder(out_csv) / f"{name}_segments.csv"
        write_segments(segments, runs_of(np.array(LABELS)[flags]), RATE_HZ)
        rows.append(
            {
                "recording": name,
                "video": str(video.resolve()),
                "imu": str(source.resolve()),
                "subject": f"PDFE{trial[1]}",
                "segments": str(segments),
            }
        )
    left_out.log()
    if not rows:
        why = "; ".join(left_out.lines()) or "none there"
        raise UserError(f"{root}: no turning trial can be used, expected {HINT}: {why}")
    write_rows(out_csv, rows)
    return len(rows)


def _flags(path: Path) -> np.ndarray:
    """Return the freezing flag of each sample, int [N], 0 or 1, of a file that is as published throughout.

    Raises:
        ValueError: it is not; without the name of the file.
    """
    try:
        table = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(delimiter="\t"),
            convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.float64())),
        )
    except (pa.ArrowException, OSError) as error:
        raise ValueError("the sensor file is no table of numbers separated by tabs") from error
    names = [name.strip() for name in table.column_names]
    if names != list(COLUMNS):
        raise ValueError(f"the sensor file has not the columns {', '.join(COLUMNS)}")
    times_s, flags = table.column(1).to_numpy(), table.column(len(COLUMNS) - 1).to_numpy()
    if len(times_s) < RATE_HZ:
        raise ValueError("the sensor file holds less than a second")
    if not np.allclose(np.diff(times_s), 1 / RATE_HZ, rtol=0, atol=0.5 / RATE_HZ):
        raise ValueError(f"the time stamps do not go on by 1/{RATE_HZ} s")
    if not np.isin(flags, (0, 1)).all():
        raise ValueError("the freezing flag is something else than 0 and 1")
    return flags.astype(np.int64)
