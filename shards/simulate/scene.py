"""Rooms: a box with painted walls and furniture, whose textures and light lie ready in one atlas of texels."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from shards.simulate import texture
from shards.simulate.curves import rot_z
from shards.simulate.gait import Gait
from shards.simulate.motion import Body
from shards.simulate.plan import SEAT_M, TREAD_M, Plan

WALL_GAP_M = 1.7
BED_M = (2.1, 1.1, SEAT_M)


@dataclass
class Box:
    """A box that stands in the room."""

    centre: np.ndarray
    """float64 [3], metres."""
    rotation: np.ndarray
    """float64 [3, 3], box to world."""
    size: np.ndarray
    """float64 [3], metres."""
    material: np.ndarray
    """float32 [S, S, 3] in 0 to 1, painted on each of its faces."""


@dataclass
class Scene:
    """What the renderer needs. Faces are numbered: the room's 6 first, then 6 for each box."""

    low: np.ndarray
    """float64 [3], corner of the room, metres."""
    high: np.ndarray
    """float64 [3], opposite corner."""
    boxes: list[Box]
    """Those that stand still, then the limbs, whose centres and rotations the renderer is told."""
    limbs: list[str]
    """Names of the limbs among the boxes, in order."""
    atlas: texture.Atlas = field(default_factory=texture.Atlas)


def build_scene(plan: Plan, body: Body, population: str, rng: np.random.Generator) -> Scene:
    """Return a random room around the subject's path, with the stairs, benches and beds that the plan uses.

    Patients are recorded in other places: paler and lower rooms with tiled or linoleum floors.
    """
    gait = body.gait
    clinic = population == "parkinson"
    half = np.array(gait.half_axes_m) + WALL_GAP_M + rng.uniform(0.0, 0.6, 2)
    top = float(gait.elevation.max() + (rng.uniform(2.5, 2.8) if clinic else rng.uniform(2.8, 3.8)))
    low, high = np.array([-half[0], -half[1], 0.0]), np.array([half[0], half[1], top])
    materials = texture.draw_materials(rng, clinic)
    light = texture.Light(
        position=np.array([*rng.uniform(-0.5, 0.5, 2) * half, top - 0.25]),
        reach_m=float(rng.uniform(4.0, 7.0)),
        ambient=float(rng.uniform(0.45, 0.65)),
        colour=np.array([1.0, rng.uniform(0.9, 1.0), rng.uniform(0.75, 1.0)]),
    )
    boxes = _stairs(plan, gait, materials, rng) + _seats(plan, body, materials, rng)
    boxes += _along_walls(low, high, materials, rng) + _island(gait, materials, rng)
    scene = Scene(low, high, boxes, list(body.limbs))
    texture.paint_room(scene.atlas, low, high, materials, light, rng)
    for box in boxes:
        texture.paint_box(scene.atlas, box.centre, box.rotation, box.size, box.material, light)
    trousers, sleeves, skin = texture.draw_clothes(rng)
    for name, part in body.limbs.items():
        cloth = skin if name.endswith("hand") else sleeves if name.endswith("forearm") else trousers
        box = Box(np.zeros(3), np.eye(3), np.array(part.size_m), cloth)
        scene.boxes.append(box)
        # Limbs move: they are lit as if they stood under the lamp.
        under = light.position - np.array([0.6, 0.4, 1.6])
        texture.paint_box(scene.atlas, under, box.rotation, box.size, cloth, light)
    scene.atlas.close()
    return scene


def _stairs(plan: Plan, gait: Gait, materials: list[np.ndarray], rng: np.random.Generator) -> list[Box]:
    """A tread under every raised footprint."""
    boxes = []
    for bout in plan.bouts:
        if not bout.rise_m:
            continue
        material = materials[rng.integers(len(materials))]
        for foot in gait.feet.values():
            inside = (foot.strikes_s >= bout.start_s) & (foot.strikes_s <= bout.end_s) & (foot.prints[:, 2] > 0.01)
            for x, y, height, heading in foot.prints[inside]:
                size = np.array([TREAD_M * 1.02, 1.3, height])
                boxes.append(Box(np.array([x, y, 0.5 * height]), rot_z(np.array([heading]))[0], size, material))
    return boxes


def _seats(plan: Plan, body: Body, materials: list[np.ndarray], rng: np.random.Generator) -> list[Box]:
    boxes = []
    for kind, time in plan.furniture:
        index = min(int(np.searchsorted(body.times_s, time)), len(body.times_s) - 1)
        heading = body.gait.heading[index]
        forward = np.array([np.cos(heading), np.sin(heading)])
        size = np.array(BED_M if kind == "bed" else (0.5, rng.uniform(0.6, 1.4), SEAT_M))
        centre = body.gait.path[index] - (0.14 + 0.5 * size[0]) * forward
        material = materials[rng.integers(len(materials))]
        boxes.append(Box(np.array([*centre, 0.5 * size[2]]), rot_z(np.array([heading]))[0], size, material))
    return boxes


def _along_walls(low: np.ndarray, high: np.ndarray, materials: list[np.ndarray], rng: np.random.Generator) -> list[Box]:
    """Cupboards, shelves and chests with their backs to the walls, clear of the path."""
    boxes = []
    for axis in (0, 1):
        for end in (low, high):
            for _ in range(rng.integers(1, 4)):
                width, depth, height = rng.uniform(0.5, 1.6), rng.uniform(0.3, 0.6), rng.uniform(0.5, 2.1)
                size = np.array([width, width, height])
                size[axis] = depth
                centre = np.zeros(3)
                other = 1 - axis
                centre[other] = rng.uniform(low[other] + width, high[other] - width)
                centre[axis] = end[axis] + (0.5 * depth if end is low else -0.5 * depth)
                centre[2] = 0.5 * height
                boxes.append(Box(centre, np.eye(3), size, materials[rng.integers(len(materials))]))
    return boxes


def _island(gait: Gait, materials: list[np.ndarray], rng: np.random.Generator) -> list[Box]:
    """Tables and a pillar in the middle of the lap."""
    boxes = []
    reach = 0.2 * np.array(gait.half_axes_m)
    for _ in range(rng.integers(2, 5)):
        size = np.array([rng.uniform(0.4, 1.3), rng.uniform(0.4, 1.3), rng.choice([0.45, 0.75, 1.1, 2.4])])
        if size[2] > 2.0:
            size[:2] = 0.4
        centre = np.array([*rng.uniform(-reach, reach), 0.5 * size[2]])
        turn = rot_z(rng.uniform(0.0, np.pi, 1))[0]
        boxes.append(Box(centre, turn, size, materials[rng.integers(len(materials))]))
    return boxes
