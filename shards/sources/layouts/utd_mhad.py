"""UTD-MHAD as a manifest of the paired source.

Chen, Jafari & Kehtarnavaz, "UTD-MHAD: A multimodal dataset for human action recognition utilizing a depth camera and a
wearable inertial sensor", ICIP 2015. 27 actions, 8 subjects, 4 repetitions; one sensor at 50 Hz (accelerometer in g,
gyroscope in deg/s), on the right wrist for actions 1 to 21 and on the right thigh for 22 to 27.
"""

from __future__ import annotations

import re
from pathlib import Path

from imuvid.errors import UserError
from imuvid.ood.datasets.public.utd_mhad import ACTIONS, LAST_WRIST_ACTION
from shards.sources.layouts.common import LeftOut, need_folders, write_rows

HINT = "Inertial/a1_s1_t1_inertial.mat and depth_mp4/a1_s1_t1.mp4"


def write_utd_mhad_manifest(root: Path, out_csv: Path) -> int:
    """Write a manifest of all clips that have both an inertial file and a video.

    Args:
        root: holds ``Inertial/aA_sS_tT_inertial.mat`` (variable d_iner) and ``depth_mp4/aA_sS_tT.mp4``.
        out_csv: manifest to write; it names the files by absolute paths.

    Returns:
        the number of clips.

    Raises:
        UserError: there is no clip in the folder, or the manifest cannot be written.
    """
    need_folders("UTD-MHAD", root, ("Inertial", "depth_mp4"), HINT)
    rows: list[dict[str, str]] = []
    left_out = LeftOut()
    for imu in sorted((root / "Inertial").glob("*_inertial.mat")):
        clip = imu.name.removesuffix("_inertial.mat")
        match = re.fullmatch(r"a(\d+)_s(\d+)_t(\d+)", clip)
        video = root / "depth_mp4" / f"{clip}.mp4"
        if match is None or not 1 <= int(match[1]) <= len(ACTIONS):
            left_out.add(clip, "is not named like a1_s1_t1_inertial.mat")
            continue
        if not video.is_file():
            left_out.add(clip, "no video of that name in depth_mp4")
            continue
        action = int(match[1])
        rows.append(
            {
                "recording": clip,
                "video": str(video.resolve()),
                "imu": str(imu.resolve()),
                "position": "right_wrist" if action <= LAST_WRIST_ACTION else "right_thigh",
                "subject": f"s{match[2]}",
                "label": ACTIONS[action - 1],
            }
        )
    left_out.log()
    if not rows:
        why = "; ".join(left_out.lines()) or "none there"
        raise UserError(f"{root}: no UTD-MHAD clip there, expected {HINT}: {why}")
    write_rows(out_csv, rows)
    return len(rows)
