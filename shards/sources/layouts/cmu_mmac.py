"""CMU-MMAC as a manifest of the paired source.

De la Torre et al., "Guide to the Carnegie Mellon University Multimodal Activity (CMU-MMAC) Database", CMU-RI-TR-08-22,
2008: people cook five recipes in a kitchen with five wired inertial sensors (MicroStrain 3DM-GX1, 125 Hz) and a head
camera (7150991), all stamped with the time of day of computers in synchrony. The archives unpack to::

    ROOT/S07_Brownie_3DMGX1/2794_01-30_16_30_49-time.txt          or ...-time-synch.txt, one for each sensor
    ROOT/S07_Brownie_Video/S07_Brownie_7150991-1431.avi
    ROOT/S07_Brownie_Video/STime7150991-time-synch.txt

A sensor's file has a line that names it, a line of tab-separated names (Accel_X ... SysTime), and the samples; SysTime
is the time of day as hours_minutes_seconds_fraction, and Count holds 'ERROR...' where a packet was lost. The STime file
has a line for each frame that the camera took: ``name:NUMBER ... TIME``. The video starts at the frame that its own
name ends with (1431). Known from two programs that read the files (SyncWISE of HAbitsLab, mmac_captions of Hitachi).
That the number is the video's first frame follows from the starts that the second lists: over 41 sessions a video
starts later than its sensors by 0.030 s for each frame of the number (Theil-Sen slope, 95 % interval 0.025 to 0.033).

The columns Roll, Pitch and Yaw are left out, since no source says what unit they are in or whether they are rates at
all. The unit of Accel is not stated either: gravity tells it. The wireless sensors (6DOFv4) are left out: their files
hold uncalibrated counts.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from imuvid.errors import UserError
from imuvid.imu.units import STANDARD_GRAVITY
from shards.sources.layouts.common import LeftOut, derived_folder, write_columns, write_rows

POSITIONS = {"2794": "left_arm", "2795": "back", "2796": "left_leg", "3261": "right_leg", "3337": "right_arm"}
"""Number of a sensor to where it is worn, as SyncWISE has it."""
CAMERA = "7150991"
ACCEL = ("Accel_X", "Accel_Y", "Accel_Z")
UNITS = {"g": 1.0, "m/s2": STANDARD_GRAVITY}
"""Unit to what gravity is in it."""
GRAVITY_TOLERANCE = 1.25
"""Largest factor by which the median of |acc| may miss gravity."""
HINT = f"S07_Brownie_3DMGX1/2794_*-time*.txt and S07_Brownie_Video/S07_Brownie_{CAMERA}-*.avi"
_TIME = re.compile(r"(\d{1,2})_(\d{1,2})_(\d{1,2})_(\d+)")


def write_cmu_mmac_manifest(root: Path, out_csv: Path) -> int:
    """Write a manifest of all sessions that have the head camera's video, its frame times, and a wired sensor.

    Args:
        root: folder of the data set; see the module's description.
        out_csv: manifest to write; the readings, on the clock of the video, go to the folder ``NAME_files`` beside it.

    Returns:
        the number of sessions.

    Raises:
        UserError: the folder has another layout or no session, or a file cannot be written.
    """
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder: give the folder of CMU-MMAC")
    rows: list[dict[str, str]] = []
    left_out = LeftOut()
    for folder in sorted(root.glob("S*_3DMGX1")):
        session = folder.name.removesuffix("_3DMGX1")
        match = re.fullmatch(r"(S\d+)_([A-Za-z]+)", session)
        if match is None:
            left_out.add(session, "is not named like S07_Brownie_3DMGX1")
            continue
        try:
            video, start_s = _video(root, session)
        except (OSError, ValueError) as error:
            left_out.add(session, str(error))
            continue
        common = {
            "recording": session,
            "video": str(video.resolve()),
            "subject": match[1],
            "label": match[2].lower(),
            "time_column": "time",
            "acc_columns": "acc_x acc_y acc_z",
        }
        rows += [common | sensor for sensor in _sensors(folder, session, start_s, derived_folder(out_csv), left_out)]
    left_out.log()
    if not rows:
        why = "; ".join(left_out.lines()) or "none there"
        raise UserError(f"{root}: no CMU-MMAC session can be used, expected {HINT}: {why}")
    write_rows(out_csv, rows)
    return len({row["recording"] for row in rows})


def _sensors(folder: Path, session: str, start_s: float, derived: Path, left_out: LeftOut) -> list[dict[str, str]]:
    """Write the readings of each sensor of a session and return their cells of the manifest."""
    rows = []
    for number, position in POSITIONS.items():
        paths = sorted(folder.glob(f"{number}_*-time*.txt"))
        if len(paths) != 1:
            left_out.add(f"{session} {position}", f"there are {len(paths)} files like {number}_*-time*.txt, expected 1")
            continue
        try:
            times_s, acc = _read_sensor(paths[0])
            unit = _unit(acc)
        except (OSError, ValueError) as error:
            left_out.add(f"{session} {position}", str(error))
            continue
        path = derived / f"{session}_{number}.parquet"
        axes = {f"acc_{axis}": acc[:, column] for column, axis in enumerate("xyz")}
        write_columns(path, {"time": times_s - start_s} | axes)
        rows.append({"imu": str(path), "position": position, "acc_unit": unit})
    return rows


def _video(root: Path, session: str) -> tuple[Path, float]:
    """Return the head camera's video of a session and the time of day of its first frame, seconds.

    Raises:
        ValueError: it is not there, or there is no time for its first frame.
    """
    folder = root / f"{session}_Video"
    pattern = re.compile(rf"{re.escape(session)}_{CAMERA}-(\d+)\.avi", re.IGNORECASE)
    found = [(path, match) for path in sorted(folder.glob("*.avi")) if (match := pattern.fullmatch(path.name))]
    if len(found) != 1:
        raise ValueError(f"there are {len(found)} videos of camera {CAMERA}, expected 1")
    video, match = found[0]
    stamps = sorted(folder.glob(f"STime{CAMERA}-time*.txt"))
    if len(stamps) != 1:
        raise ValueError(f"there are {len(stamps)} files STime{CAMERA}-time*.txt, expected 1")
    wanted = re.compile(rf"\w+:{int(match[1])}\s(?:.*\s)?(\S+)")
    for line in stamps[0].read_text(encoding="latin-1").splitlines():
        if frame := wanted.fullmatch(line.strip()):
            return video, _seconds(frame[1])
    raise ValueError("its file of frame times has no frame of the number that the video starts with")


def _read_sensor(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the time of day (float64 [N], seconds, increasing) and the acceleration (float64 [N, 3]) of a sensor.

    Samples of lost packets, and those whose time does not go on, are left out: they leave a gap.

    Raises:
        ValueError: the file has not the columns of the layout, or no sample.
    """
    lines = path.read_text(encoding="latin-1").splitlines()
    names = lines[1].split("\t") if len(lines) > 1 else []
    names = [name.strip() for name in names]
    missing = [name for name in (*ACCEL, "Count", "SysTime") if name not in names]
    if missing:
        raise ValueError(f"the second line of the sensor file names no column {missing[0]}")
    count, time, axes = names.index("Count"), names.index("SysTime"), [names.index(name) for name in ACCEL]
    times_s: list[float] = []
    acc: list[list[float]] = []
    for line in lines[2:]:
        cells = line.split("\t")
        if len(cells) < len(names) or not cells[count].strip().isdecimal():
            continue
        try:
            now_s, values = _seconds(cells[time].strip()), [float(cells[axis]) for axis in axes]
        except ValueError:
            continue
        if not times_s or now_s > times_s[-1]:
            times_s.append(now_s)
            acc.append(values)
    if len(times_s) < 2:
        raise ValueError("the sensor file holds no samples")
    return np.array(times_s), np.array(acc)


def _unit(acc: np.ndarray) -> str:
    """Return the unit in which the median of |acc| is gravity.

    Raises:
        ValueError: it is in none.
    """
    middle = float(np.median(np.linalg.norm(acc, axis=1)))
    for unit, gravity in UNITS.items():
        if gravity / GRAVITY_TOLERANCE < middle < gravity * GRAVITY_TOLERANCE:
            return unit
    raise ValueError("the median of |acc| is gravity neither in g nor in m/s2")


def _seconds(stamp: str) -> float:
    """Return the seconds of the day of a stamp such as 16_30_49_1234567.

    Raises:
        ValueError: it is none.
    """
    match = _TIME.fullmatch(stamp)
    if match is None:
        raise ValueError(f"'{stamp}' is no time of day")
    hours, minutes, seconds, fraction = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction) / 10 ** len(fraction)
