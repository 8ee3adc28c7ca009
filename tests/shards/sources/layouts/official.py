"""Small folders in the official layouts of public data sets, with readings that are known."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from tests.shards.recordings import HEIGHT, WIDTH, write_video


def write_uestc_clip(root: Path, activity: str, clip: str, sensitivity: int, seconds: int = 6) -> None:
    """Write a clip that feels 1 g along z and turns by 10 deg/s about x; sample i has i counts along y."""
    for part in ("sensor", "video"):
        (root / part / activity).mkdir(parents=True, exist_ok=True)
    rows = [f"0,{i},{sensitivity},164,0,-82" for i in range(25 * seconds)]
    (root / "sensor" / activity / f"{clip}.csv").write_text("\n".join(rows) + "\n")
    write_video(root / "video" / activity / f"{clip}.mp4", 25 * seconds)


def write_wear_session(root: Path, number: int, labels: list[tuple[str, int]], fps: int = 60) -> None:
    """Write a session whose limbs feel 1, 2, 3 and 4 g along x, z and y in turn; labels are (label, seconds)."""
    inertial, camera = root / "raw" / "inertial" / "50hz", root / "raw" / "camera"
    inertial.mkdir(parents=True, exist_ok=True)
    camera.mkdir(parents=True, exist_ok=True)
    limbs = ("right_arm", "right_leg", "left_leg", "left_arm")
    header = ["sbj_id", *(f"{limb}_acc_{axis}" for limb in limbs for axis in "xyz"), "label"]
    cells = "0.5,0.0,1.0,0.0,1.0,0.0,-1.0,0.0,0.0,0.0,0.0,-1.0"
    rows = [f"{number},{cells},{label}" for label, seconds in labels for _ in range(50 * seconds)]
    (inertial / f"sbj_{number}.csv").write_text("\n".join([",".join(header), *rows]) + "\n")
    write_video(camera / f"sbj_{number}.mp4", fps * sum(seconds for _, seconds in labels), fps)


TURNING_HEADER = (
    "Frame #\tTime [s]\tACC ML [g]\tACC AP [g]\tACC SI [g]\t"
    "GYR ML [deg/s]\tGYR AP [deg/s]\tGYR SI [deg/s]\tFreezing event [flag]"
)


def write_turning_trial(
    root: Path, subject: int, trial: int, frozen_s: list[tuple[int, int]], seconds: int = 8
) -> None:
    """Write a trial that feels 1 g along SI and turns by 90 deg/s about it, frozen from each start to its end."""
    for part in ("IMU", "Videos"):
        (root / part).mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(128 * seconds):
        flag = int(any(start <= i / 128 < end for start, end in frozen_s))
        rows.append(f"{i + 1}\t{i / 128:.4f}\t0.1000\t-0.2000\t1.0000\t0.0000\t0.5000\t90.0000\t{flag}")
    (root / "IMU" / f"SUB{subject:02d}_{trial}.txt").write_text("\r\n".join([TURNING_HEADER, *rows]) + "\r\n")
    (root / "IMU" / f"SUB{subject:02d}_{trial}.csv").write_bytes(bytes.fromhex("d0cf11e0a1b11ae1"))  # an Excel file
    write_video(root / "Videos" / f"PDFE{subject:02d}_{trial}.mp4", 30 * seconds, 30)


def stamp(day_s: float) -> str:
    """Return a time of day as CMU-MMAC writes it, with seven digits after the second."""
    ticks = round(day_s * 1e7)
    seconds, fraction = divmod(ticks, 10**7)
    return f"{seconds // 3600:02d}_{seconds // 60 % 60:02d}_{seconds % 60:02d}_{fraction:07d}"


def write_cmu_session(root: Path, session: str, seconds: int = 6, first_frame: int = 40, gravity: float = 1.0) -> None:
    """Write a session: the camera starts 12 s after the sensors, the video at its frame ``first_frame``.

    Sensors read ``gravity`` along z, and a knock of four times that along x, 2 s after the video's first frame.
    """
    sensors_s = 16 * 3600 + 30 * 60 + 49.0
    camera_s = sensors_s + 12.0
    knock_s = camera_s + (first_frame - 1) / 30 + 2.0
    folder, video = root / f"{session}_3DMGX1", root / f"{session}_Video"
    folder.mkdir(parents=True)
    video.mkdir()
    names = ["Accel_X", "Accel_Y", "Accel_Z", "Roll", "Pitch", "Yaw", "Mag_X", "Mag_Y", "Mag_Z", "Count", "SysTime"]
    for number in ("2794", "2795", "2796", "3261", "3337"):
        lines = [f"Sensor: {number}", "\t".join(names)]
        for i in range(int((12 + first_frame / 30 + seconds + 3) * 125)):
            now_s = sensors_s + i / 125
            x = 4 * gravity if abs(now_s - knock_s) < 0.004 else 0.0
            count = "ERROR_7" if i == 20 else str(i)
            lines.append(f"{x:.4f}\t0.0000\t{gravity:.4f}\t0.1\t0.2\t0.3\t0.4\t0.5\t0.6\t{count}\t{stamp(now_s)}")
        (folder / f"{number}_01-30_16_30_49-time.txt").write_text("\n".join(lines) + "\n")
    num_frames = 30 * seconds
    stamps = [
        f"FRAME:{k} TIME: 0 EPOCH: -- {stamp(camera_s + (k - 1) / 30)}" for k in range(1, first_frame + num_frames)
    ]
    (video / "STime7150991-time-synch.txt").write_text("\n".join(stamps) + "\n")
    _write_avi(video / f"{session}_7150991-{first_frame}.avi", num_frames, 30)


def _write_avi(path: Path, num_frames: int, fps: int) -> None:
    """Write an AVI file of MPEG-4 Part 2 pictures that grow brighter."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(num_frames):
            picture = np.full((HEIGHT, WIDTH, 3), 20 + 200 * i // num_frames, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def constant(values: list[float], length: int) -> np.ndarray:
    """Return float64 [length, 3] of equal rows."""
    return np.tile(np.array(values, dtype=np.float64), (length, 1))
