"""UTD-MHAD, the inertial files: 27 actions, 8 people, up to 4 repetitions, one sensor.

Chen, Jafari, Kehtarnavaz, "UTD-MHAD: A multimodal dataset for human action recognition utilizing a depth camera and a
wearable inertial sensor", ICIP 2015. Files ``aA_sS_tT_inertial.mat`` with variable d_iner [samples, 6]: g and deg/s at
50 Hz, on the right wrist in actions 1 to 21 and on the right thigh in 22 to 27. 861 clips of 2.1 to 6.5 s.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from imuvid.errors import UserError
from imuvid.ood.datasets.recording import Card, Recording, Segment
from imuvid.ood.datasets.tables import Sensor, even_times, files, locate, read_mat, streams_of

RATE_HZ = 50.0
LAST_WRIST_ACTION = 21
ACTIONS = (
    *("swipe_left", "swipe_right", "wave", "clap", "throw", "arm_cross", "basketball_shoot", "draw_x"),
    *("draw_circle_clockwise", "draw_circle_counter_clockwise", "draw_triangle", "bowling", "boxing"),
    *("baseball_swing", "tennis_swing", "arm_curl", "tennis_serve", "push", "knock", "catch", "pickup_and_throw"),
    *("jog", "walk", "sit_to_stand", "stand_to_sit", "lunge", "squat"),
)
"""Names of actions 1 to 27, in the order of the publication."""


def read(folder: Path) -> Iterator[Recording]:
    """Yield the clips."""
    base = locate(folder, "a*_s*_t*_inertial.mat", "utd_mhad")
    for path, match in files(base, "*.mat", r"a(\d+)_s(\d+)_t(\d+)_inertial\.mat"):
        action = int(match[1])
        if not 1 <= action <= len(ACTIONS):
            raise UserError(f"{path}: action {action} is not 1 to {len(ACTIONS)}: it is not a published file")
        position = "right_wrist" if action <= LAST_WRIST_ACTION else "right_thigh"
        table = read_mat(path, "d_iner", 6)
        times_s = even_times(len(table), RATE_HZ)
        streams = streams_of(table, times_s, [Sensor(position, (0, 1, 2), (3, 4, 5), "g", "deg/s")])
        segment = Segment(0.0, len(table) / RATE_HZ, ACTIONS[action - 1])
        yield Recording(path.stem.removesuffix("_inertial"), f"s{match[2]}", path, streams, [segment])


CARD = Card(
    key="utd_mhad",
    title="UTD-MHAD (inertial)",
    population="healthy adults",
    citation="Chen, Jafari, Kehtarnavaz, ICIP 2015",
    homepage="https://personal.utdallas.edu/~kehtar/UTD-MHAD.html",
    licence="free for research, cite the paper; no licence is stated",
    rate_hz=(RATE_HZ, RATE_HZ),
    positions=("right_wrist", "right_thigh"),
    sensors="acc g, gyro deg/s",
    labels=ACTIONS,
    read=read,
    subjects=8,
    recordings=861,
    steps="Open the page, follow the link 'Inertial', download Inertial.zip, unpack it.",
    seen=True,
    note="Actions 1 to 21 have the sensor on the right wrist, 22 to 27 on the right thigh: score one place at a time.",
)
