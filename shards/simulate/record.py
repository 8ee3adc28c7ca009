"""One simulated recording: readings, labels, pictures and truth, a pure function of the config and a number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from imuvid.errors import UserError
from shards.simulate.imu_sensor import Readings, SensorParameters, draw_parameters, measure
from shards.simulate.motion import CAMERA_PLACES, PLACES, Body, camera_mount, move
from shards.simulate.plan import Plan, Segment, draw_plan
from shards.simulate.population import POPULATIONS, Subject, draw_subject
from shards.simulate.render import Renderer
from shards.simulate.scene import build_scene
from shards.simulate.trajectory import Trajectory

_BASE_MOUNTING_DEG = {
    "healthy": {"waist": (0, 0, 0), "wrist": (0, 0, 0), "ankle": (0, 0, 0)},
    "parkinson": {"waist": (0, 0, 180), "wrist": (0, 0, 90), "ankle": (180, 0, 0)},
}


@dataclass
class SimulatedConfig:
    """What is simulated."""

    seed: int = 0
    """Start of all randomness: other seeds are other subjects, rooms and sensors."""
    population: str = "healthy"
    """healthy or parkinson (tremor, shuffling, freezing, slow turns; other rooms and sensor placement)."""
    num_subjects: int = 12
    """Subjects in the set."""
    recordings_per_subject: int = 1
    """Recordings of each subject, each in another room."""
    duration_s: float = 60.0
    """Length of a recording, seconds."""
    render: bool = True
    """Whether there is video; without it, recordings are made in a fraction of the time."""
    fps: int = 15
    """Frames a second of the video."""
    video_size: int = 128
    """Width and height of the video, pixels, even."""
    fov_deg: float = 90.0
    """Angle of view across the picture, degrees."""
    camera: str = "head"
    """Part of the body that wears the camera: head or chest."""
    positions: list[str] = field(default_factory=lambda: ["head", "wrist", "waist", "ankle"])
    """Parts that wear an IMU, of head, chest, waist, wrist, thigh, ankle."""
    imu_rate_hz: float = 200.0
    """Readings a second of each IMU."""
    mounting_deg: float = 12.0
    """SD of a sensor's misalignment about each axis, degrees."""
    clock_offset_s: float = 0.0
    """Largest offset of the IMU clock against the video's; each recording draws one, uniform within +-, seconds."""
    work_dir: str = "build/simulated"
    """Folder in which finished recordings are kept and found again."""

    def check(self) -> None:
        """Raise UserError where a value makes no sense."""
        _known("population", [self.population], POPULATIONS)
        _known("camera", [self.camera], tuple(CAMERA_PLACES))
        _known("positions", self.positions, tuple(PLACES["healthy"]))
        if len(set(self.positions)) != len(self.positions) or not self.positions:
            raise UserError(f"simulated.positions: {self.positions} must name each of at least one position once")
        for name, low, high in (
            ("num_subjects", 1, 100_000),
            ("recordings_per_subject", 1, 100_000),
            ("duration_s", 1.0, 3600.0),
            ("fps", 1, 120),
            ("video_size", 16, 1024),
            ("fov_deg", 10.0, 150.0),
            ("imu_rate_hz", 10.0, 1000.0),
            ("mounting_deg", 0.0, 90.0),
            ("clock_offset_s", 0.0, 60.0),
            ("seed", 0, 2**63),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"simulated.{name}: {value} is not between {low} and {high}")
        if self.video_size % 2:
            raise UserError(f"simulated.video_size: {self.video_size} must be even for H.264")


def _known(name: str, values: list[str], known: tuple[str, ...]) -> None:
    for value in values:
        if value not in known:
            raise UserError(f"simulated.{name}: '{value}' is unknown: choose of {', '.join(known)}")


@dataclass
class SimulatedRecording:
    """A recording in memory, with its truth."""

    name: str
    subject_name: str
    subject: Subject
    duration_s: float
    streams: dict[str, Readings]
    """What the IMUs recorded, by position; stamps are of their own clock: the video's plus ``clock_offset_s``."""
    segments: list[Segment]
    """Labels, without gaps from 0 to ``duration_s``."""
    clock_offset_s: float
    """True offset of the IMU clock against the video's."""
    parameters: dict[str, SensorParameters]
    """True errors of each sensor, by position."""
    sensors: dict[str, Trajectory]
    """True motion of the body part at each sensor, by position (body frame: x forward, y left, z up)."""
    camera: Trajectory
    """True motion of the camera (x right, y down, z into the picture)."""
    plan: Plan
    body: Body


def num_recordings(config: SimulatedConfig) -> int:
    """Number of recordings that the config describes."""
    return config.num_subjects * config.recordings_per_subject


def recording_name(config: SimulatedConfig, index: int) -> str:
    """Name of recording ``index``; sorts as the numbers do."""
    subject, recording = divmod(index, config.recordings_per_subject)
    return f"{config.population}-{config.seed}-s{subject:04d}-r{recording:03d}"


def simulate(config: SimulatedConfig, index: int) -> SimulatedRecording:
    """Return recording ``index``, the same on every call; the pictures are made by :func:`frames`.

    Raises:
        UserError: a value of the config makes no sense.
        IndexError: there is no such recording.
    """
    config.check()
    if not 0 <= index < num_recordings(config):
        raise IndexError(f"recording {index} of {num_recordings(config)}")
    number = index // config.recordings_per_subject
    subject = draw_subject(config.population, _generator(config, number, 0, "subject"))
    plan_rng, body_rng, sensor_rng = (_generator(config, number, index, what) for what in ("plan", "body", "sensor"))
    plan = draw_plan(subject, config.duration_s, plan_rng)
    # To the end of the plan, beyond the recording: a cut amid a step leaves the step as it is.
    body = move(plan, subject, plan.segments[-1].end_s, body_rng)
    sensors, parameters, streams = {}, {}, {}
    offset = float(sensor_rng.uniform(-1.0, 1.0) * config.clock_offset_s)
    bases = _BASE_MOUNTING_DEG[config.population]
    for position in config.positions:
        part = body.sensors[position]
        sensors[position] = Trajectory(body.times_s, part.position, part.rotation)
        base = Rotation.from_euler("xyz", bases.get(position, (0, 0, 0)), degrees=True)
        parameters[position] = draw_parameters(sensor_rng, config.imu_rate_hz, base, config.mounting_deg, offset)
        streams[position] = measure(sensors[position], config.duration_s, parameters[position], sensor_rng)
    carrier = body.cameras[config.camera]
    return SimulatedRecording(
        name=recording_name(config, index),
        subject_name=f"{config.population}-{config.seed}-{number:04d}",
        subject=subject,
        duration_s=config.duration_s,
        streams=streams,
        segments=[
            Segment(s.start_s, min(s.end_s, config.duration_s), s.label)
            for s in plan.segments
            if s.start_s < config.duration_s
        ],
        clock_offset_s=offset,
        parameters=parameters,
        sensors=sensors,
        camera=Trajectory(body.times_s, carrier.position, carrier.rotation @ camera_mount(subject)),
        plan=plan,
        body=body,
    )


def frame_times(config: SimulatedConfig) -> np.ndarray:
    """Instants of the video's frames, float64 [F], seconds."""
    return np.arange(round(config.duration_s * config.fps)) / config.fps


def frames(config: SimulatedConfig, recording: SimulatedRecording, index: int) -> Iterator[np.ndarray]:
    """Yield the pictures of recording ``index``, uint8 [video_size, video_size, 3] RGB, at :func:`frame_times`."""
    number = index // config.recordings_per_subject
    body = recording.body
    scene = build_scene(recording.plan, body, config.population, _generator(config, number, index, "room"))
    renderer = Renderer(scene, config.video_size, config.fov_deg)
    t = frame_times(config)
    limbs = [Trajectory(body.times_s, body.limbs[n].position, body.limbs[n].rotation) for n in scene.limbs]
    limb_positions = np.stack([limb.position(t) for limb in limbs], axis=1)
    limb_rotations = np.stack([limb.rotation(t) for limb in limbs], axis=1)
    positions, rotations = recording.camera.position(t), recording.camera.rotation(t)
    for pose in zip(positions, rotations, limb_positions, limb_rotations, strict=True):
        yield renderer.render(*pose)


def _generator(config: SimulatedConfig, number: int, index: int, what: str) -> np.random.Generator:
    purpose = ("subject", "plan", "body", "sensor", "room").index(what)
    recording = index % config.recordings_per_subject
    population = POPULATIONS.index(config.population)
    return np.random.default_rng([config.seed, population, number, recording, purpose])
