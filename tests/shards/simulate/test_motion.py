"""Is the motion one motion: do ideal readings integrate to the poses, and do activities move as people do?"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import cumulative_trapezoid
from scipy.signal import welch
from scipy.spatial.transform import Rotation

from shards.simulate.imu_sensor import GRAVITY, ideal_readings
from shards.simulate.record import SimulatedRecording
from shards.simulate.trajectory import Trajectory


def stretches(recording: SimulatedRecording, label: str, trim_s: float = 1.2) -> list[tuple[float, float]]:
    """Inner parts of the labelled segments, without the changes at their ends."""
    found = [(s.start_s + trim_s, s.end_s - trim_s) for s in recording.segments if s.label == label]
    return [(a, b) for a, b in found if b - a > 2.0]


def force_and_rate(recording: SimulatedRecording, position: str, a: float, b: float) -> tuple[np.ndarray, np.ndarray]:
    return ideal_readings(recording.sensors[position], np.arange(a, b, 0.005))


def peak_hz(values: np.ndarray, low: float = 0.5, high: float = 20.0) -> float:
    frequency, power = welch(values - values.mean(axis=0), 200.0, nperseg=min(400, len(values)), nfft=4096, axis=0)
    power = power.sum(axis=1) if power.ndim == 2 else power
    inside = (frequency >= low) & (frequency <= high)
    return float(frequency[inside][power[inside].argmax()])


@pytest.mark.parametrize("position", ["head", "wrist", "waist", "ankle"])
@pytest.mark.parametrize("begin_s", [0.0, 25.0, 50.0])
def test_gyro_integrates_to_orientation(healthy: list[SimulatedRecording], position: str, begin_s: float) -> None:
    trajectory = healthy[0].sensors[position]
    step = 1e-3
    t = begin_s + np.arange(0.0, 10.0, step)
    increments = Rotation.from_rotvec(trajectory.angular_velocity(t + 0.5 * step) * step)
    integrated = Rotation.from_matrix(trajectory.rotation(t[:1]))[0]
    for increment in increments:
        integrated = integrated * increment
    truth = Rotation.from_matrix(trajectory.rotation(t[-1:] + step))[0]
    assert np.degrees((integrated.inv() * truth).magnitude()) < 0.05


@pytest.mark.parametrize("position", ["head", "wrist", "waist", "ankle"])
def test_specific_force_integrates_to_position(healthy: list[SimulatedRecording], position: str) -> None:
    trajectory = healthy[1].sensors[position]
    t = np.arange(10.0, 20.0, 1e-3)
    force, _ = ideal_readings(trajectory, t)
    world = np.einsum("nij,nj->ni", trajectory.rotation(t), force) - [0.0, 0.0, GRAVITY]
    start = (trajectory.position(t[:1] + 1e-4) - trajectory.position(t[:1] - 1e-4)) / 2e-4
    velocity = start + cumulative_trapezoid(world, t, axis=0, initial=0.0)
    position_m = trajectory.position(t[:1]) + cumulative_trapezoid(velocity, t, axis=0, initial=0.0)
    assert np.abs(position_m - trajectory.position(t)).max() < 0.01


def test_sensor_at_rest_reads_gravity_alone() -> None:
    t = np.linspace(0.0, 2.0, 41)
    turned = np.tile(Rotation.from_euler("xyz", [40.0, -70.0, 110.0], degrees=True).as_matrix(), (41, 1, 1))
    force, rate = ideal_readings(Trajectory(t, np.tile([1.0, 2.0, 3.0], (41, 1)), turned), np.linspace(0.1, 1.9, 50))
    np.testing.assert_allclose(np.linalg.norm(force, axis=1), 9.80665, atol=1e-6)
    np.testing.assert_allclose(force[0], turned[0].T @ [0.0, 0.0, 9.80665], atol=1e-6)
    assert np.abs(rate).max() < 1e-9


def test_gyro_of_a_known_turn_has_its_rate_and_sign() -> None:
    t = np.linspace(0.0, 2.0, 401)
    turning = Trajectory(t, np.zeros((401, 3)), Rotation.from_euler("z", 0.7 * t[:, None]).as_matrix())
    np.testing.assert_allclose(turning.angular_velocity(t[5:-5]), np.tile([0.0, 0.0, 0.7], (391, 1)), atol=1e-6)


def test_motion_is_smooth(healthy: list[SimulatedRecording], patients: list[SimulatedRecording]) -> None:
    t = np.arange(0.0, 60.0, 5e-4)
    for recording in (healthy[0], patients[0]):
        for position, trajectory in recording.sensors.items():
            jumps = np.abs(np.diff(trajectory.acceleration(t), axis=0)).max()
            assert jumps < 5.0, f"{position}: the acceleration jumps by {jumps:.1f} m/s^2 within half a millisecond"
            assert np.abs(np.diff(trajectory.angular_velocity(t), axis=0)).max() < 0.3


def test_standing_is_quiet_and_lying_is_level(healthy: list[SimulatedRecording]) -> None:
    for recording in healthy:
        for a, b in stretches(recording, "stand"):
            force, _ = force_and_rate(recording, "waist", a, b)
            assert np.linalg.norm(force, axis=1).mean() == pytest.approx(GRAVITY, abs=0.05)
            assert np.abs(force.mean(axis=0)[2]) > 9.0
        for a, b in stretches(recording, "lie", 3.5):
            looks_at = recording.camera.rotation(np.array([0.5 * (a + b)]))[0, :, 2]
            assert looks_at[2] > 0.4, "lying on the back, the camera looks up"


def test_walking_bounces_swings_and_strikes(healthy: list[SimulatedRecording]) -> None:
    bounce = []
    for recording in healthy:
        for a, b in stretches(recording, "walk"):
            waist, _ = force_and_rate(recording, "waist", a, b)
            ankle, ankle_rate = force_and_rate(recording, "ankle", a, b)
            _, wrist_rate = force_and_rate(recording, "wrist", a, b)
            bounce.append(np.linalg.norm(waist, axis=1).std())
            swing = np.percentile(np.abs(ankle_rate), 99.5, axis=0).max()
            assert 3.0 < swing < 9.0
            assert np.linalg.norm(ankle, axis=1).max() > 20.0
            stride_hz = next(bout.stride_hz for bout in recording.plan.bouts if bout.start_s < a + 1.0 < bout.end_s)
            assert peak_hz(waist[:, 2]) == pytest.approx(2.0 * stride_hz, abs=0.2)
            assert peak_hz(wrist_rate[:, 1], 0.4) == pytest.approx(stride_hz, abs=0.2)
            speed = np.linalg.norm(recording.sensors["ankle"].velocity(np.arange(a, b, 0.005)), axis=1)
            assert np.percentile(speed, 20) < 0.4, "a foot stands for a good part of each stride"
            progress = recording.sensors["waist"].position(np.array([a, b]))
            assert 0.7 < np.linalg.norm(np.diff(progress[:, :2], axis=0)) / (b - a) < 1.8
    assert 1.2 < np.mean(bounce) < 3.2


def test_each_activity_shows_in_the_heads_path(healthy: list[SimulatedRecording]) -> None:
    for recording in healthy:
        height = recording.subject.height_m
        for segment in recording.segments:
            t = np.arange(segment.start_s, segment.end_s, 0.02)
            z = recording.sensors["head"].position(t)[:, 2]
            if segment.end_s - segment.start_s < 5.0:
                continue
            if segment.label == "stairs":
                assert z.max() - 0.95 * height > 0.3
            elif segment.label == "fall":
                assert z.min() < 0.6
            elif segment.label == "bend":
                assert np.ptp(z) > 0.25
            elif segment.label == "sit":
                assert np.median(z) < 0.8 * height
            elif segment.label == "turn":
                rate = recording.sensors["waist"].angular_velocity(t)[:, 2]
                assert np.abs(rate).max() > 1.0


def test_patients_have_tremor_at_rest_and_healthy_subjects_none(
    healthy: list[SimulatedRecording], patients: list[SimulatedRecording]
) -> None:
    def tremor_share(recording: SimulatedRecording, a: float, b: float) -> float:
        _, rate = force_and_rate(recording, "wrist", a, b)
        frequency, power = welch(rate, 200.0, nperseg=min(400, len(rate)), axis=0)
        inside = (frequency >= 4.0) & (frequency <= 6.0)
        return float(power[inside].sum() / power[frequency > 0.3].sum())

    for recording in patients:
        for a, b in stretches(recording, "sit", 3.5):
            _, rate = force_and_rate(recording, "wrist", a, b)
            assert 4.0 <= peak_hz(rate, 3.0) <= 6.0
            assert peak_hz(rate, 3.0) == pytest.approx(recording.subject.tremor_hz, abs=0.4)
            assert tremor_share(recording, a, b) > 0.15
    for recording in healthy:
        for a, b in stretches(recording, "sit", 3.0):
            assert tremor_share(recording, a, b) < 0.05


def test_freezing_trembles_without_progress(patients: list[SimulatedRecording]) -> None:
    seen = 0
    for recording in patients:
        for a, b in stretches(recording, "freeze"):
            seen += 1
            for position in ("ankle", "waist"):
                force, _ = force_and_rate(recording, position, a, b)
                assert 3.0 <= peak_hz(force, 1.0) <= 8.0
            moved = np.diff(recording.sensors["waist"].position(np.array([a, b])), axis=0)
            assert np.linalg.norm(moved) < 0.1
    assert seen >= 2


def test_patients_shuffle_and_turn_slowly(
    healthy: list[SimulatedRecording], patients: list[SimulatedRecording]
) -> None:
    def mean_over(recordings: list[SimulatedRecording], label: str, measure) -> float:  # type: ignore[no-untyped-def]
        return float(np.mean([measure(r, a, b) for r in recordings for a, b in stretches(r, label)]))

    def speed(recording: SimulatedRecording, a: float, b: float) -> float:
        way = np.diff(recording.sensors["waist"].position(np.linspace(a, b, 200))[:, :2], axis=0)
        return np.linalg.norm(way, axis=1).sum() / (b - a)

    def turning(recording: SimulatedRecording, a: float, b: float) -> float:
        return np.abs(recording.sensors["waist"].angular_velocity(np.arange(a, b, 0.02))[:, 2]).max()

    assert mean_over(patients, "walk", speed) < 0.75 * mean_over(healthy, "walk", speed)
    assert mean_over(patients, "turn", turning) < 0.75 * mean_over(healthy, "turn", turning)
