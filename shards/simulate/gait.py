"""Where the subject goes: path through the room, heading, phase of the gait, feet that stand where they stepped."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.integrate import cumulative_simpson
from scipy.interpolate import make_interp_spline
from scipy.ndimage import gaussian_filter1d

from shards.simulate.curves import bump, smooth_noise, smoothstep, smoothstep_integral
from shards.simulate.plan import RAMP_S, Bout, Plan
from shards.simulate.population import Subject

REST_PHASE = 0.02
SWING = 0.53
SWING_RAMP = 0.4


@dataclass
class Foot:
    """One foot over time."""

    ankle: np.ndarray
    """float64 [N, 3], ankle joint in the world, metres; still in stance."""
    strikes_s: np.ndarray
    """float64 [K], instants of the heel strikes, seconds."""
    strike_amount: np.ndarray
    """float64 [K], size of each relative to comfortable walking."""
    prints: np.ndarray
    """float64 [K, 4], where each strike puts the foot: x, y, height of the ground (m), heading (rad)."""


@dataclass
class Gait:
    """Locomotion at the knots."""

    phase: np.ndarray
    """float64 [N], strides; whole numbers are heel strikes of the right foot."""
    amount: np.ndarray
    """float64 [N], size of the gait's oscillations: 0 at rest, 1 in comfortable walking."""
    path: np.ndarray
    """float64 [N, 2], ground point below the hips, metres."""
    heading: np.ndarray
    """float64 [N], radians from x towards y."""
    glance: np.ndarray
    """float64 [N], how far the gaze runs ahead of a turn, radians."""
    elevation: np.ndarray
    """float64 [N], height of the ground that carries the body, smoothed over steps, metres."""
    feet: dict[str, Foot]
    """By side: right, left."""
    half_axes_m: tuple[float, float]
    """Of the path, which is a lap around the middle of the room."""

    def wave(self, per_stride: float, lag: float) -> np.ndarray:
        """Cosine [N] with ``per_stride`` periods a stride, largest ``lag`` of its period after a right heel strike."""
        return np.cos(2.0 * np.pi * (per_stride * self.phase - lag))


def walk_plan(plan: Plan, subject: Subject, t: np.ndarray, rng: np.random.Generator) -> Gait:
    """Return where the subject of a plan goes; the lap is long enough to be walked once only."""
    phase, amount, distance = np.full(len(t), REST_PHASE), np.zeros(len(t)), np.zeros(len(t))
    stride = 1.0 + 0.04 * smooth_noise(rng, t, 0.5)
    for bout in plan.bouts:
        share = _share(bout, t)
        phase += bout.stride_hz * _elapsed(bout, t)
        amount += bout.amount * share
        # The stride shortens with the square of the ramp, so that the feet come together at the end.
        distance += cumulative_simpson(bout.stride_m * bout.stride_hz * stride * share**2, x=t, initial=0.0)
    path, tangent, half_axes = _lap(distance, rng)
    turned = np.zeros(len(t))
    glance = np.zeros(len(t))
    for turn in plan.turns:
        progress = (t - turn.start_s) / (turn.end_s - turn.start_s)
        ahead = (t + 0.25 - turn.start_s) / (turn.end_s - turn.start_s)
        turned += turn.angle * smoothstep(progress)
        glance += turn.angle * (smoothstep(ahead) - smoothstep(progress))
    heading = tangent + turned
    feet = {
        side: _foot(plan, subject, t, phase + offset, amount, path, heading, sign)
        for side, offset, sign in (("right", 0.0, -1.0), ("left", 0.5, 1.0))
    }
    elevation = np.zeros(len(t))
    for bout in plan.bouts:
        elevation += bout.rise_m * _tent(bout, 2.0 * bout.stride_hz * _elapsed(bout, t) - 0.4)
    elevation = gaussian_filter1d(elevation, 0.22 / (t[1] - t[0]))
    return Gait(phase, amount, path, heading, glance, elevation, feet, half_axes)


def _share(bout: Bout, t: np.ndarray) -> np.ndarray:
    return smoothstep((t - bout.start_s) / RAMP_S) - smoothstep((t - bout.end_s + RAMP_S) / RAMP_S)


def _elapsed(bout: Bout, t: np.ndarray) -> np.ndarray:
    """Integral of :func:`_share`, seconds."""
    return RAMP_S * (
        smoothstep_integral((t - bout.start_s) / RAMP_S) - smoothstep_integral((t - bout.end_s + RAMP_S) / RAMP_S)
    )


def _tent(bout: Bout, steps: np.ndarray) -> np.ndarray:
    """Treads above the floor after so many steps of a flight that goes up and down again."""
    return np.clip(np.minimum(steps, bout.num_steps - steps), 0.0, max(bout.num_steps // 2 - 1, 0))


def _lap(distance: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Positions [N, 2] and headings [N] at distances along |x/a|^4 + |y/b|^4 = 1."""
    ratio = rng.uniform(1.15, 1.6)
    length = max(20.0, distance[-1] + 4.0)
    angle = np.linspace(0.0, 2.0 * np.pi, 2001)
    radius = (np.cos(angle) ** 4 + (np.sin(angle) / ratio) ** 4) ** -0.25
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    along = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    scale = length / along[-1]
    start = rng.uniform(0.0, along[-1])
    turns = np.concatenate([along[:-1] - along[-1], along, along[1:] + along[-1]])
    points = np.stack([np.concatenate([v[:-1], v, v[1:]]) for v in (x, y)], axis=1)
    spline = make_interp_spline(turns, points, k=5)
    direction = float(rng.choice([-1.0, 1.0]))
    at = start + direction * distance / scale
    at = np.where(direction > 0, at, at + along[-1] * (start < along[-1] / 2))
    slope = direction * spline(at, nu=1)
    heading = np.unwrap(np.arctan2(slope[:, 1], slope[:, 0]))
    return scale * spline(at), heading, (scale, scale * ratio)


def _foot(
    plan: Plan,
    subject: Subject,
    t: np.ndarray,
    phase: np.ndarray,
    amount: np.ndarray,
    path: np.ndarray,
    heading: np.ndarray,
    sign: float,
) -> Foot:
    """A foot that strikes at whole ``phase``, stands until SWING after it and swings to the next print."""
    first, last = math.floor(phase[0]), math.floor(phase[-1])
    strikes = np.interp(np.arange(first + 1, last + 1), phase, t)
    at = np.concatenate([t[:1], strikes])
    ahead = np.zeros(len(at))
    ground = np.zeros(len(at))
    strength = np.zeros(len(at))
    lift = np.zeros(len(t))
    for bout in plan.bouts:
        share = _share(bout, at)
        ahead += 0.29 * bout.stride_m * share
        inside = (at >= bout.start_s) & (at <= bout.end_s)
        steps = np.round(2.0 * bout.stride_hz * _elapsed(bout, at))
        ground += inside * bout.rise_m * _tent(bout, steps)
        strength += bout.amount * share
        active = smoothstep((t - bout.start_s) / 0.3) * smoothstep((bout.end_s - t) / 0.3)
        lift += (bout.lift_m + 0.5 * bout.rise_m) * active
    facing = np.interp(at + 0.1, t, heading)
    side = sign * 0.05 * subject.height_m
    prints = np.stack(
        [
            np.interp(at, t, path[:, 0]) + ahead * np.cos(facing) - side * np.sin(facing),
            np.interp(at, t, path[:, 1]) + ahead * np.sin(facing) + side * np.cos(facing),
            ground,
            facing,
        ],
        axis=1,
    )
    stance = np.floor(phase).astype(int) - first
    swing = (phase - np.floor(phase) - SWING) / (1.0 - SWING)
    after = np.minimum(stance + 1, len(at) - 1)
    ramps = smoothstep_integral(swing / SWING_RAMP) - smoothstep_integral((swing - 1.0) / SWING_RAMP + 1.0)
    share_t = (SWING_RAMP / (1.0 - SWING_RAMP) * ramps)[:, None]
    ankle = (1.0 - share_t) * prints[stance, :3] + share_t * prints[after, :3]
    ankle[:, 2] += subject.ankle_m + lift * bump(np.clip(swing, 0.0, 1.0) ** 0.8)
    return Foot(ankle, strikes, strength[1:], prints[1:])
