"""Who moves: the traits of a simulated subject, for each population."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

POPULATIONS = ("healthy", "parkinson")
ACTIVITIES = ("walk", "stairs", "sit", "stand", "sit_to_stand", "turn", "bend", "lie", "fall")


@dataclass(frozen=True)
class Subject:
    """Traits that stay the same in all recordings of a subject."""

    population: str
    height_m: float
    stride_hz: float
    """Comfortable stride rate; the cadence is twice that."""
    stride_m: float
    vigour: float
    """Speed of voluntary movement relative to the mean healthy adult."""
    foot_lift_m: float
    """Rise of the ankle in the middle of a swing."""
    bounce_m: float
    """Amplitude of the pelvis' vertical movement in gait."""
    sway_m: float
    """Amplitude of the pelvis' lateral movement in gait."""
    strike: float
    """Hardness of the heel strike: acceleration that it adds at the ankle, m/s^2."""
    stoop_rad: float
    """Forward bend of the trunk when upright."""
    pelvis_tilt_rad: float
    arm_swing_rad: float
    elbow_rad: float
    turn_rad_s: float
    """Mean rate of a turn on the spot."""
    restlessness: float
    """Size of glances, gestures and weight shifts relative to the mean."""
    tremor_hz: float
    tremor_rad: float
    """Amplitude of the rest tremor of the forearm; 0 without tremor."""
    freeze_hz: float
    """Rate of the legs' trembling in a freeze."""
    camera_tilt_rad: float
    """Downward tilt of the worn camera."""

    @property
    def leg_m(self) -> float:
        """Hip to ankle joint (Winter 2009, Biomechanics and Motor Control, fig. 4.1: 0.491 of the height)."""
        return 0.491 * self.height_m

    @property
    def ankle_m(self) -> float:
        """Height of the ankle joint of a flat foot (Winter 2009, fig. 4.1)."""
        return 0.039 * self.height_m

    @property
    def pelvis_m(self) -> float:
        """Height of the hips when standing with easy knees."""
        return self.ankle_m + 0.982 * self.leg_m


def draw_subject(population: str, rng: np.random.Generator) -> Subject:
    """Return a random subject of the population.

    Parkinsonian ranges: rest tremor 4 to 6 Hz, freezing tremble 3 to 8 Hz (Moore et al. 2008), shuffling steps with
    little arm swing, slow turns, stooped trunk.
    """
    uniform = rng.uniform
    height = float(np.clip(rng.normal(1.71, 0.09), 1.5, 1.95))
    patient = population == "parkinson"
    vigour = uniform(0.5, 0.75) if patient else uniform(0.75, 1.3)
    stride_hz = (uniform(0.8, 1.05) if patient else uniform(0.8, 1.02)) * math.sqrt(1.71 / height)
    return Subject(
        population=population,
        height_m=height,
        stride_hz=stride_hz,
        stride_m=height * (uniform(0.28, 0.46) if patient else uniform(0.6, 0.78)),
        vigour=vigour,
        foot_lift_m=uniform(0.03, 0.06) if patient else uniform(0.09, 0.13),
        bounce_m=uniform(0.007, 0.013) if patient else uniform(0.016, 0.026),
        sway_m=uniform(0.02, 0.035) if patient else uniform(0.012, 0.025),
        strike=uniform(4.0, 9.0) if patient else uniform(12.0, 28.0),
        stoop_rad=math.radians(uniform(14.0, 30.0) if patient else uniform(0.0, 9.0)),
        pelvis_tilt_rad=math.radians(rng.normal(5.0, 5.0)),
        arm_swing_rad=math.radians(uniform(2.0, 9.0) if patient else uniform(12.0, 30.0)),
        elbow_rad=math.radians(uniform(40.0, 75.0) if patient else uniform(12.0, 40.0)),
        turn_rad_s=uniform(0.5, 0.9) if patient else uniform(1.2, 2.0),
        restlessness=uniform(0.4, 0.8) if patient else uniform(0.6, 1.5),
        tremor_hz=uniform(4.2, 5.8),
        tremor_rad=math.radians(uniform(2.0, 8.0)) if patient else 0.0,
        freeze_hz=uniform(3.5, 7.0),
        camera_tilt_rad=math.radians(uniform(8.0, 22.0)),
    )
