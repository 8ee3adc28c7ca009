"""What a subject does in a recording: activities as postures to reach, steps to take and turns to make."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from shards.simulate.population import ACTIVITIES, Subject

SEAT_M = 0.46
RAMP_S = 0.7
TREAD_M = 0.29


@dataclass
class Segment:
    """A labelled stretch of time, seconds."""

    start_s: float
    end_s: float
    label: str


@dataclass(frozen=True)
class Posture:
    """Slow coordinates of the body; angles in radians, positive forward."""

    pelvis_m: float
    """Height of the hips above the ground."""
    forward_m: float = 0.0
    """Hips relative to the standing place."""
    pitch: float = 0.0
    """Pelvis."""
    roll: float = 0.0
    """Pelvis."""
    trunk: float = 0.0
    """Trunk relative to the pelvis."""
    head: float = 0.0
    """Head relative to the trunk."""
    shoulder: float = 0.05
    """Flexion of both shoulders."""
    elbow: float = 0.25
    """Flexion of both elbows."""
    legs_along: float = 0.0
    """0: the feet stay where they stepped; 1: the legs lie along the pelvis' axis."""

    def vector(self) -> np.ndarray:
        """The fields in order, float64 [9]."""
        return np.array(list(self.__dict__.values()))


@dataclass(frozen=True)
class Move:
    """A change of posture between two instants, minimum jerk in ``u ** warp`` of the elapsed share u."""

    start_s: float
    end_s: float
    change: np.ndarray
    """Posture.vector() after minus before [9]."""
    arc: np.ndarray
    """What is added in the middle and gone at the end [9]: the lean of rising from a chair."""
    warp: float = 1.0


@dataclass(frozen=True)
class Bout:
    """Consecutive steps: forward, or on the spot where ``stride_m`` is 0."""

    start_s: float
    end_s: float
    num_steps: int
    stride_m: float
    amount: float
    """Size of the gait's oscillations relative to comfortable walking."""
    lift_m: float
    rise_m: float = 0.0
    """Height of a stair; the first half of the steps goes up, the second down."""

    @property
    def stride_hz(self) -> float:
        """Rate of strides between the ramps at both ends."""
        return 0.5 * self.num_steps / (self.end_s - self.start_s - RAMP_S)


@dataclass(frozen=True)
class Turn:
    """A change of heading."""

    start_s: float
    end_s: float
    angle: float


@dataclass
class Plan:
    """All that happens in a recording."""

    posture: Posture
    """At the beginning."""
    segments: list[Segment] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    bouts: list[Bout] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    landings: list[tuple[float, float]] = field(default_factory=list)
    """Impacts of falls: when, and the acceleration that they add at the waist (m/s^2)."""
    freezes: list[tuple[float, float]] = field(default_factory=list)
    """Stretches in which the legs tremble without progress, seconds."""
    furniture: list[tuple[str, float]] = field(default_factory=list)
    """Kind (bench or bed) and an instant at which the subject stands in front of it."""


def draw_plan(subject: Subject, duration_s: float, rng: np.random.Generator) -> Plan:
    """Return a random plan of at least ``duration_s``; every activity comes before any comes again."""
    planner = _Planner(subject, rng)
    names = ACTIVITIES + (("freeze",) if subject.population == "parkinson" else ())
    previous = ""
    while planner.time < duration_s:
        order = list(rng.permutation(names))
        if order[0] == previous:
            order.append(order.pop(0))
        for name in order:
            if name == "freeze":
                planner.add("walk", rng.uniform(3.5, 5.0))
            planner.add(str(name), rng.uniform(6.5, 9.5))
        previous = order[-1]
    return planner.plan


class _Planner:
    """Appends one activity after another to a plan; each method is one activity of about ``duration`` seconds."""

    def __init__(self, subject: Subject, rng: np.random.Generator):
        self.subject = subject
        self.rng = rng
        self.time = 0.0
        tilt = subject.pelvis_tilt_rad
        self.upright = Posture(
            pelvis_m=subject.pelvis_m,
            pitch=tilt,
            trunk=subject.stoop_rad - tilt,
            head=0.05 - 0.7 * subject.stoop_rad,
            shoulder=0.05,
            elbow=subject.elbow_rad,
        )
        self.posture = self.upright
        self.plan = Plan(self.upright)
        self.ready = 0.0

    def add(self, name: str, duration: float) -> None:
        """Do an activity and label it; half of coming to stand for it still belongs to the activity before."""
        start = self.ready = self.time
        segments = self.plan.segments
        getattr(self, name)(duration)
        if segments:
            start = segments[-1].end_s = 0.5 * (start + self.ready)
        segments.append(Segment(start, self.time, name))

    def walk(self, duration: float) -> None:
        subject = self.subject
        self.rise()
        effort = self.rng.uniform(0.92, 1.08)
        self.steps(duration, subject.stride_hz * effort, subject.stride_m * effort, 1.0, subject.foot_lift_m)

    def stairs(self, duration: float) -> None:
        self.rise()
        stride_hz = self.subject.stride_hz * self.rng.uniform(0.7, 0.9)
        rise = self.rng.uniform(0.15, 0.18)
        lift = max(self.subject.foot_lift_m, 0.08)
        self.reach(replace(self.upright, head=self.upright.head + 0.3), 0.8)
        self.time -= 0.4
        self.steps(duration, stride_hz, 2.0 * TREAD_M, 0.8, lift, rise)
        self.reach(self.upright, 0.6)

    def turn(self, duration: float) -> None:
        self.rise()
        end = self.time + duration
        direction = int(self.rng.choice([-1, 1]))
        while True:
            angle = math.pi * self.rng.uniform(0.5, 1.0) * min(1.0, self.subject.turn_rad_s)
            turn_s = angle / (self.subject.turn_rad_s * self.rng.uniform(0.85, 1.15)) + RAMP_S
            # There and back, so that the subject faces along the path again.
            for sign in (direction, -direction):
                self._turn(sign * angle, turn_s)
                self.time += self.rng.uniform(0.2, 0.8)
            direction = -direction
            if self.time + turn_s > end:
                break

    def _turn(self, angle: float, turn_s: float) -> None:
        self.plan.turns.append(Turn(self.time, self.time + turn_s, angle))
        rate = self.subject.stride_hz * self.rng.uniform(0.75, 0.95)
        self.steps(turn_s, rate, 0.0, 0.35, 0.6 * self.subject.foot_lift_m)

    def stand(self, duration: float) -> None:
        self.rise()
        self.time += duration

    def sit(self, duration: float) -> None:
        self.sit_down()
        self.time += 0.9 * duration

    def sit_to_stand(self, duration: float) -> None:
        self.sit_down()
        end = self.time + 0.8 * duration
        while self.time < end:
            self.reach(self.upright, self.pace(1.5), lean=0.75)
            self.time += self.rng.uniform(0.3, 0.9)
            self.sit_down()
            self.time += self.rng.uniform(0.2, 0.8)

    def bend(self, duration: float) -> None:
        self.rise()
        end = self.time + duration
        while self.time < end:
            depth = self.rng.uniform(0.7, 1.1)
            up = self.upright
            down = replace(
                up,
                pelvis_m=up.pelvis_m * (1.0 - 0.1 * depth),
                forward_m=-0.12 * depth,
                pitch=up.pitch + 0.55 * depth,
                trunk=up.trunk + 0.75 * depth,
                head=up.head + 0.1,
                shoulder=1.3 * depth,
                elbow=0.25,
            )
            self.reach(down, self.pace(1.2))
            self.time += self.rng.uniform(0.2, 0.9)
            self.reach(up, self.pace(1.3))
            self.time += self.rng.uniform(0.3, 1.0)

    def lie(self, duration: float) -> None:
        self.sit_down(on="bed")
        supine = Posture(
            pelvis_m=SEAT_M + 0.11,
            forward_m=-1.15,
            pitch=-0.5 * math.pi + self.rng.normal(0.0, 0.06),
            head=self.rng.uniform(0.05, 0.45),
            shoulder=0.1,
            elbow=self.rng.uniform(0.2, 1.3),
            legs_along=1.0,
        )
        self.reach(supine, self.pace(1.7))
        self.time += 0.6 * duration

    def fall(self, duration: float) -> None:
        self.rise()
        self.time += self.rng.uniform(0.6, 1.4)
        kind = self.rng.choice(["forward", "backward", "left", "right"])
        ground = Posture(pelvis_m=0.14, head=0.1, shoulder=0.6, elbow=0.7, legs_along=1.0)
        down = {
            "forward": replace(ground, forward_m=0.75, pitch=1.5, head=-0.35, shoulder=1.9, elbow=1.4),
            "backward": replace(ground, forward_m=-0.7, pitch=-1.45, head=0.3),
            "left": replace(ground, forward_m=0.25, pitch=0.4, roll=-1.4),
            "right": replace(ground, forward_m=0.25, pitch=0.4, roll=1.4),
        }[str(kind)]
        fall_s = self.rng.uniform(0.75, 1.05)
        self.reach(down, fall_s, warp=1.6)
        self.plan.landings.append((self.time - 0.14 * fall_s, self.rng.uniform(18.0, 40.0)))
        self.time += 0.5 * duration

    def freeze(self, duration: float) -> None:
        self.rise()
        self.plan.freezes.append((self.time, self.time + duration))
        self.time += duration

    def rise(self) -> None:
        """Come to stand, from wherever the body is."""
        if self.posture.legs_along > 0.0 and self.posture.pelvis_m > 0.3:
            self.reach(self.sitting(), self.pace(2.0))
        if self.posture.legs_along > 0.0:
            self.reach(replace(self.upright, pelvis_m=0.5, forward_m=-0.1, pitch=0.5, trunk=0.7), self.pace(2.0))
        if self.posture != self.upright:
            self.reach(self.upright, self.pace(1.5), lean=0.6 if self.posture.pelvis_m < 0.7 else 0.0)
        self.ready = self.time

    def sitting(self) -> Posture:
        """A way to sit."""
        lean = self.rng.normal(0.0, 0.12)
        return Posture(
            pelvis_m=SEAT_M + 0.1,
            forward_m=-0.42,
            pitch=-0.15 + lean,
            trunk=0.15 + self.subject.stoop_rad,
            head=self.rng.uniform(-0.1, 0.3) - 0.6 * self.subject.stoop_rad,
            shoulder=self.rng.uniform(0.2, 0.6),
            elbow=self.rng.uniform(0.8, 1.4),
        )

    def sit_down(self, on: str = "bench") -> None:
        """Sit, coming to stand first where the body lies or stands bent."""
        seated = self.posture != self.upright and self.posture.legs_along == 0.0 and bool(self.plan.furniture)
        if not seated or self.plan.furniture[-1][0] != on:
            self.rise()
            self.plan.furniture.append((on, self.time))
        self.reach(self.sitting(), self.pace(1.6), lean=0.6)

    def pace(self, duration: float) -> float:
        """Duration of a movement that the mean healthy adult makes in ``duration`` seconds."""
        return duration / self.subject.vigour * self.rng.uniform(0.9, 1.15)

    def reach(self, posture: Posture, duration: float, lean: float = 0.0, warp: float = 1.0) -> None:
        """Move to a posture; ``lean`` is the trunk's bend on the way, radians."""
        arc = Posture(pelvis_m=0.0, pitch=0.4 * lean, trunk=0.6 * lean, head=-0.4 * lean, shoulder=0.0, elbow=0.0)
        change = posture.vector() - self.posture.vector()
        self.plan.moves.append(Move(self.time, self.time + duration, change, arc.vector(), warp))
        self.posture = posture
        self.time += duration

    def steps(
        self, duration: float, stride_hz: float, stride_m: float, amount: float, lift_m: float, rise_m: float = 0.0
    ) -> None:
        """Step for about ``duration``, a whole number of steps; even on stairs, which end where they began."""
        num_steps = max(2, round(2.0 * stride_hz * (duration - RAMP_S)))
        if rise_m:
            num_steps += num_steps % 2
        bout = Bout(self.time, self.time + duration, num_steps, stride_m, amount, lift_m, rise_m)
        self.plan.bouts.append(bout)
        self.time += duration
