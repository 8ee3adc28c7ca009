"""The moving body: from a plan to the pose of every segment that carries a sensor or can be seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from shards.simulate.curves import bump, impacts, levels, rot_x, rot_y, rot_z, smooth_noise, smoothstep
from shards.simulate.gait import Gait, walk_plan
from shards.simulate.plan import Plan
from shards.simulate.population import Subject

KNOT_RATE_HZ = 200.0
MARGIN_S = 1.0
RESTLESS = {"stand": 1.0, "sit": 1.0, "lie": 0.35, "walk": 0.55, "turn": 0.3, "freeze": 0.25, "stairs": 0.3}
REST_TREMOR = {"sit": 1.0, "lie": 0.8, "stand": 0.9, "walk": 0.8, "freeze": 1.0, "turn": 0.7, "stairs": 0.5}
PLACES: dict[str, dict[str, tuple[float, float, float]]] = {
    "healthy": {
        "head": (0.09, 0.0, 0.03),
        "chest": (0.13, 0.0, 0.0),
        "waist": (0.12, -0.06, 0.07),
        "wrist": (0.0, -0.03, 0.0),
        "thigh": (0.08, -0.02, 0.0),
        "ankle": (0.0, -0.05, 0.0),
    },
    "parkinson": {
        "head": (0.02, -0.08, 0.02),
        "chest": (-0.11, 0.0, 0.05),
        "waist": (-0.11, 0.0, 0.10),
        "wrist": (0.02, 0.0, 0.02),
        "thigh": (0.0, -0.09, -0.05),
        "ankle": (0.06, 0.0, 0.05),
    },
}
"""Where on the part an IMU is worn, metres forward, left and up: patients wear other devices at other places."""


SIDES = {"right": -1.0, "left": 1.0}
Noise = Callable[[float, float], np.ndarray]
"""Gives a random curve [N] of an amplitude and a bandwidth in Hz."""
CAMERA_PLACES = {"head": (0.10, 0.0, 0.02), "chest": (0.16, 0.0, 0.05)}
"""Where the camera is worn, metres forward, left and up of the part."""


@dataclass
class Part:
    """One rigid part of the body at all knots; its frame has x forward, y left, z up when standing."""

    position: np.ndarray
    """float64 [N, 3], metres."""
    rotation: np.ndarray
    """float64 [N, 3, 3], part to world."""
    size_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Of the box that is drawn for it, centred on ``position``; zeros where it is not drawn."""


@dataclass
class Body:
    """A subject in motion."""

    times_s: np.ndarray
    """float64 [N], the knots, KNOT_RATE_HZ."""
    sensors: dict[str, Part]
    """Where an IMU is worn, by position."""
    cameras: dict[str, Part]
    """Where a camera can be worn: head, chest; the frame is still the part's."""
    limbs: dict[str, Part]
    """What the camera can see of the body."""
    gait: Gait
    """Path, steps and heading."""


def move(plan: Plan, subject: Subject, end_s: float, rng: np.random.Generator) -> Body:
    """Return the subject's body in motion from MARGIN_S before 0 to MARGIN_S after ``end_s``."""
    t = np.arange(-MARGIN_S, end_s + MARGIN_S + 0.5 / KNOT_RATE_HZ, 1.0 / KNOT_RATE_HZ)
    gait = walk_plan(plan, subject, t, rng)
    slow = _posture(plan, t)
    starts, labels = [s.start_s for s in plan.segments], [s.label for s in plan.segments]
    restless = subject.restlessness * levels(t, starts, [RESTLESS.get(label, 0.15) for label in labels])

    def noise(amplitude: float, bandwidth_hz: float) -> np.ndarray:
        return amplitude * smooth_noise(rng, t, bandwidth_hz)

    freeze = sum((smoothstep((t - a) / 0.5) * smoothstep((b - t) / 0.5) for a, b in plan.freezes), np.zeros(len(t)))
    tremble_phase = 2.0 * np.pi * subject.freeze_hz * t + 1.5 * noise(1.0, 0.4)
    tremble = freeze * (1.0 + noise(0.25, 0.6)) * np.sin(tremble_phase)
    tremble_side = freeze * (1.0 + noise(0.25, 0.6)) * np.sin(tremble_phase + 1.2)
    shake = _shake(plan, gait, subject, t)

    pelvis, pelvis_r = _pelvis(slow, gait, subject, noise, restless, tremble)
    pelvis = pelvis + shake[:, None] * np.array([0.35, 0.0, 1.0])
    trunk_r = pelvis_r @ rot_y(slow[:, 4] + noise(0.015, 0.5) * restless - 0.02 * gait.amount * gait.wave(2.0, 0.1))
    trunk_r = trunk_r @ rot_z(-0.16 * gait.amount * gait.wave(1.0, 0.25) + noise(0.06, 0.3) * restless)
    height = subject.height_m
    # Winter 2009, fig. 4.1: shoulders at 0.818 of the height and hips at 0.530, upper arm 0.186, forearm 0.146.
    neck = _at(pelvis, trunk_r, 0.0, 0.0, 0.30 * height)
    looking = restless * noise(0.42, 0.35) + gait.glance * min(1.0, subject.vigour)
    nod = slow[:, 5] + noise(0.16, 0.4) * restless + noise(0.02, 1.0) * (1.0 - restless.clip(0, 1))
    nod = nod + gait.amount * (0.025 * gait.wave(2.0, 0.55) + noise(0.03, 0.5))
    head_r = trunk_r @ rot_z(looking) @ rot_y(nod) @ rot_x(noise(0.05, 0.4) * restless + slow[:, 3] * 0.1)
    head = _at(neck, head_r, 0.02, 0.0, 0.08 * height) - 0.45 * shake[:, None] * np.array([0.0, 0.0, 1.0])

    limbs: dict[str, Part] = {}
    tremor = _tremor(plan, subject, t, noise)
    for side, sign in SIDES.items():
        right = float(sign < 0.0)
        limbs.update(_arm(side, slow, gait, subject, neck, trunk_r, restless, noise, right * tremor))
        leg_tremble = tremble if right else tremble_side
        limbs.update(_leg(side, slow, gait, subject, pelvis, pelvis_r, leg_tremble, t))
    carriers = {
        "head": (head, head_r),
        "chest": (_at(pelvis, trunk_r, 0.0, 0.0, 0.21 * height), trunk_r),
        "waist": (pelvis, pelvis_r),
        "wrist": _end(limbs["right_forearm"], 0.36),
        "thigh": _end(limbs["right_thigh"], 0.0),
        "ankle": _end(limbs["right_shank"], 0.4),
    }
    sensors = {}
    for name, (origin, rotation) in carriers.items():
        sensors[name] = Part(_at(origin, rotation, *PLACES[subject.population][name]), rotation)
    cameras = {}
    for name, place in CAMERA_PLACES.items():
        origin, rotation = carriers[name]
        cameras[name] = Part(_at(origin, rotation, *place), rotation)
    return Body(t, sensors, cameras, limbs, gait)


def _posture(plan: Plan, t: np.ndarray) -> np.ndarray:
    slow = np.tile(plan.posture.vector(), (len(t), 1))
    for move_ in plan.moves:
        first, last = np.searchsorted(t, [move_.start_s, move_.end_s])
        elapsed = ((t[first:last] - move_.start_s) / (move_.end_s - move_.start_s)) ** move_.warp
        slow[first:last] += smoothstep(elapsed)[:, None] * move_.change + bump(elapsed)[:, None] * move_.arc
        slow[last:] += move_.change
    return slow


def _shake(plan: Plan, gait: Gait, subject: Subject, t: np.ndarray) -> np.ndarray:
    """Vertical displacement [N] of the pelvis by heel strikes of both feet and by landings of falls."""
    result = np.zeros(len(t))
    for foot in gait.feet.values():
        result += impacts(t, foot.strikes_s, 0.22 * subject.strike * foot.strike_amount, 9.0)
    times, peaks = [time for time, _ in plan.landings], [peak for _, peak in plan.landings]
    return result + impacts(t, times, peaks, 7.0)


def _pelvis(
    slow: np.ndarray,
    gait: Gait,
    subject: Subject,
    noise: Noise,
    restless: np.ndarray,
    tremble: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Middle of the hips [N, 3] and the pelvis' rotation [N, 3, 3]."""
    amount = gait.amount
    heading_r = rot_z(gait.heading)
    local = np.stack(
        [
            slow[:, 1] + 0.012 * amount * gait.wave(2.0, 0.0) + noise(0.008, 0.4) * restless + 0.0008 * tremble,
            subject.sway_m * amount * gait.wave(1.0, 0.05) + noise(0.01, 0.3) * restless,
            slow[:, 0] - subject.bounce_m * amount * (0.6 + gait.wave(2.0, 0.25)) + 0.0012 * tremble,
        ],
        axis=1,
    )
    upright = 1.0 - slow[:, 8]
    yaw = 0.09 * amount * gait.wave(1.0, 0.25) + noise(0.03, 0.3) * restless
    roll = slow[:, 3] + 0.05 * amount * gait.wave(1.0, 0.05) + noise(0.015, 0.4) * restless
    pitch = slow[:, 2] + 0.025 * amount * gait.wave(2.0, 0.15) + noise(0.012, 0.4) * restless + 0.006 * tremble
    rotation = heading_r @ rot_z(yaw * upright) @ rot_x(roll) @ rot_y(pitch)
    ground = np.stack([gait.path[:, 0], gait.path[:, 1], gait.elevation], axis=1)
    return ground + np.einsum("nij,nj->ni", heading_r, local), rotation


def _tremor(plan: Plan, subject: Subject, t: np.ndarray, noise: Noise) -> np.ndarray:
    """Angle [N] of the forearm's rest tremor; it waxes and wanes and fades in voluntary movement."""
    rest = levels(t, [s.start_s for s in plan.segments], [REST_TREMOR.get(s.label, 0.25) for s in plan.segments])
    size = subject.tremor_rad * rest * np.abs(1.0 + noise(0.35, 0.2))
    size = gaussian_filter1d(size, 0.2 * KNOT_RATE_HZ)
    return size * np.sin(2.0 * np.pi * subject.tremor_hz * t + noise(0.8, 0.3))


def _arm(
    side: str,
    slow: np.ndarray,
    gait: Gait,
    subject: Subject,
    neck: np.ndarray,
    trunk_r: np.ndarray,
    restless: np.ndarray,
    noise: Noise,
    tremor: np.ndarray,
) -> dict[str, Part]:
    """Forearm and hand; the arm swings against the leg of its side."""
    sign = SIDES[side]
    height = subject.height_m
    swing = -sign * subject.arm_swing_rad * gait.amount * gait.wave(1.0, 0.0)
    gesture = np.tanh(noise(1.0, 0.5)) ** 2 * restless
    flexion = slow[:, 6] + swing + 0.35 * gesture + noise(0.03, 0.5) * restless
    abduction = 0.12 + noise(0.05, 0.4) * restless
    elbow = slow[:, 7] + 0.5 * subject.arm_swing_rad * gait.amount + 0.5 * swing + 0.8 * gesture + 0.25 * tremor
    turn = noise(0.35, 0.5) * restless + tremor
    upper_r = trunk_r @ rot_x(sign * abduction) @ rot_y(-flexion)
    lower_r = upper_r @ rot_y(-elbow) @ rot_z(-sign * 0.3 + turn)
    shoulder = _at(neck, trunk_r, 0.0, sign * 0.115 * height, -0.02 * height)
    elbow_at = _at(shoulder, upper_r, 0.0, 0.0, -0.186 * height)
    return {
        f"{side}_forearm": Part(
            _at(elbow_at, lower_r, 0.0, 0.0, -0.073 * height), lower_r, (0.07, 0.08, 0.14 * height)
        ),
        f"{side}_hand": Part(_at(elbow_at, lower_r, 0.0, 0.0, -0.195 * height), lower_r, (0.09, 0.05, 0.10 * height)),
    }


def _leg(
    side: str,
    slow: np.ndarray,
    gait: Gait,
    subject: Subject,
    pelvis: np.ndarray,
    pelvis_r: np.ndarray,
    tremble: np.ndarray,
    t: np.ndarray,
) -> dict[str, Part]:
    """Thigh, shank and foot between the hip and an ankle that stands where it stepped (two-link inverse kinematics)."""
    sign, leg, foot = SIDES[side], subject.leg_m, gait.feet[side]
    hip = _at(pelvis, pelvis_r, 0.0, sign * 0.05 * subject.height_m, 0.0)
    along = slow[:, 8:9]
    ankle = (1.0 - along) * foot.ankle + along * _at(hip, pelvis_r, 0.0, 0.0, -0.96 * leg)
    ring = impacts(t, foot.strikes_s, subject.strike * foot.strike_amount, 14.0)
    ankle = ankle + ring[:, None] * np.array([0.3, 0.1, 1.0])
    ankle[:, 2] += 0.0025 * tremble
    line = hip - ankle
    length = np.linalg.norm(line, axis=1)
    z = line / length[:, None]
    y = pelvis_r[:, :, 1] - np.einsum("ni,ni->n", pelvis_r[:, :, 1], z)[:, None] * z
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    leg_r = np.stack([np.cross(y, z), y, z], axis=2)
    # A leg is never quite straight: the knee's angle would have an infinite slope there.
    reach = length / leg
    reach = reach - 0.03 * np.logaddexp(0.0, (reach - 0.965) / 0.03)
    half_knee = gaussian_filter1d(np.arccos(np.clip(reach, 0.05, 0.9999)), 0.03 * KNOT_RATE_HZ)
    shank_r = leg_r @ rot_y(half_knee + 0.06 * tremble)
    thigh_r = leg_r @ rot_y(-half_knee + 0.02 * tremble)
    toe = np.array([0.07, 0.0, -0.6 * subject.ankle_m])
    foot_r = leg_r @ rot_y(half_knee * 0.6 - 0.1)
    return {
        f"{side}_thigh": Part(_at(hip, thigh_r, 0.0, 0.0, -0.25 * leg), thigh_r, (0.15, 0.15, 0.5 * leg)),
        f"{side}_shank": Part(_at(ankle, shank_r, 0.0, 0.0, 0.25 * leg), shank_r, (0.11, 0.10, 0.5 * leg)),
        f"{side}_foot": Part(_at(ankle, foot_r, *toe), foot_r, (0.26, 0.10, 0.08)),
    }


def _end(limb: Part, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Point on a limb's axis, ``share`` of its length below the middle, and the limb's rotation."""
    return _at(limb.position, limb.rotation, 0.0, 0.0, -share * limb.size_m[2]), limb.rotation


def _at(origin: np.ndarray, rotation: np.ndarray, x: float, y: float, z: float) -> np.ndarray:
    """Point [N, 3] in the world that lies at (x, y, z) in a part's frame."""
    return origin + rotation @ np.array([x, y, z])


CAMERA_AXES = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""Camera (x right, y down, z into the picture) to body (x forward, y left, z up)."""


def camera_mount(subject: Subject) -> np.ndarray:
    """Rotation [3, 3] from the camera's axes to those of the part that carries it: tilted down."""
    return rot_y(np.array([subject.camera_tilt_rad]))[0] @ CAMERA_AXES
