"""Procedural pictures for walls, floors and furniture, lit once, with mip levels, in one flat atlas."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

NUM_LEVELS = 6
ROOM_TEXELS = 512
BOX_TEXELS = 64


@dataclass(frozen=True)
class Light:
    """A lamp under the ceiling and light from all around."""

    position: np.ndarray
    """float64 [3], metres."""
    reach_m: float
    """Distance at which the lamp's light has halved."""
    ambient: float
    """Share of the light that has no direction, 0 to 1."""
    colour: np.ndarray
    """float64 [3], red, green, blue, 0 to 1."""

    def on(self, points: np.ndarray, normal: np.ndarray) -> np.ndarray:
        """Light [..., 3] on points [..., 3] of a face: ambient plus Lambert's cosine with a falloff."""
        to_lamp = self.position - points
        distance = np.linalg.norm(to_lamp, axis=-1)
        cosine = np.clip(to_lamp @ normal / np.maximum(distance, 1e-6), 0.0, 1.0)
        lamp = (1.0 - self.ambient) * (0.35 + 1.5 * cosine) / (1.0 + (distance / self.reach_m) ** 2)
        return (self.ambient + lamp)[..., None] * self.colour


@dataclass
class Atlas:
    """Texels of all faces and levels in one row; filled by :func:`paint_room` and :func:`paint_box`, then closed."""

    texels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint32))
    """uint32 [M]: the bytes red, green, blue, 0 of each texel."""
    offsets: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    """int32 [faces * NUM_LEVELS]: where a level of a face begins."""
    shifts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    """int32 [faces]: log2 of the texels along a side of the finest level."""
    density: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """float32 [faces]: texels a metre at the finest level."""
    parts: list[np.ndarray] = field(default_factory=list)
    sides: list[tuple[int, float]] = field(default_factory=list)

    def add(self, picture: np.ndarray, width_m: float) -> None:
        """Append a face: picture [S, S, 3] in 0 to 1, S a power of two, row = v, column = u."""
        self.sides.append((picture.shape[0].bit_length() - 1, picture.shape[0] / width_m))
        level = np.asarray(picture, np.float32)
        for _ in range(NUM_LEVELS):
            packed = np.zeros((*level.shape[:2], 4), np.uint8)
            packed[..., :3] = np.clip(level * 255.0, 0.0, 255.0)
            self.parts.append(packed.reshape(-1, 4).view(np.uint32)[:, 0])
            level = 0.25 * (level[0::2, 0::2] + level[1::2, 0::2] + level[0::2, 1::2] + level[1::2, 1::2])

    def close(self) -> None:
        """Lay the faces out; none can be added afterwards."""
        self.texels = np.concatenate(self.parts)
        self.offsets = np.cumsum([0] + [len(part) for part in self.parts[:-1]]).astype(np.int32)
        self.shifts = np.array([shift for shift, _ in self.sides], np.int32)
        self.density = np.array([density for _, density in self.sides], np.float32)
        self.parts = []


def _clouds(rng: np.random.Generator, size: int, coarsest: int, persistence: float) -> np.ndarray:
    """Fractal noise [size, size] of about unit amplitude: detail at all scales from ``coarsest`` cells down."""
    result = np.zeros((size, size), np.float32)
    cells, amplitude = coarsest, 1.0
    while cells <= size:
        grid = rng.standard_normal((cells, cells), np.float32)
        result += amplitude * np.repeat(np.repeat(grid, size // cells, 0), size // cells, 1)
        cells, amplitude = cells * 2, amplitude * persistence
    return result / np.abs(result).max()


def _colour(rng: np.random.Generator, saturation: float, value: float) -> np.ndarray:
    phase = rng.uniform(0.0, 2.0 * np.pi) + np.array([0.0, 2.1, 4.2])
    return np.clip(value * (1.0 + saturation * np.cos(phase)), 0.02, 1.0).astype(np.float32)


def _pattern(rng: np.random.Generator, size: int, kind: str, base: np.ndarray) -> np.ndarray:
    """A surface [size, size, 3] of the kind, in shades of the colour."""
    row, column = np.mgrid[0:size, 0:size]
    shade = 1.0 + 0.4 * _clouds(rng, size, 4, 0.8)
    cell = max(4, size // int(rng.integers(6, 14)))
    if kind == "planks":
        board = row // cell
        ends = (column + board * 37 * cell // 8) // (cell * 5)
        shade *= rng.uniform(0.65, 1.15, (size // cell + 1, 64)).astype(np.float32)[board, ends % 64]
        shade *= np.where(row % cell == 0, 0.45, 1.0)
    elif kind == "tiles":
        shade *= rng.uniform(0.8, 1.1, (size // cell + 1, size // cell + 1)).astype(np.float32)[
            row // cell, column // cell
        ]
        shade *= np.where((row % cell == 0) | (column % cell == 0), 0.5, 1.0)
    elif kind == "bricks":
        cell = max(4, cell // 2)
        shifted = column + (row // cell % 2) * cell
        shade *= rng.uniform(0.7, 1.15, (2 * size, 64)).astype(np.float32)[row // cell, shifted // (2 * cell) % 64]
        shade *= np.where((row % cell == 0) | (shifted % (2 * cell) == 0), 1.3, 1.0)
    elif kind == "stripes":
        shade *= np.where(column // (cell // 2) % 2 == 0, 0.8, 1.1)
    elif kind == "checks":
        shade *= np.where((column // cell + row // cell) % 2 == 0, 0.6, 1.15)
    elif kind == "speckle":
        shade += 0.35 * (rng.random((size, size), np.float32) > 0.9)
        shade -= 0.35 * (rng.random((size, size), np.float32) > 0.92)
    return np.clip(shade[..., None] * base, 0.0, 1.0).astype(np.float32)


def draw_materials(rng: np.random.Generator, clinic: bool) -> list[np.ndarray]:
    """Return some furniture surfaces, each float32 [BOX_TEXELS, BOX_TEXELS, 3]."""
    kinds = (
        ["speckle", "stripes", "tiles"] if clinic else ["planks", "bricks", "stripes", "checks", "speckle", "planks"]
    )
    materials = []
    for kind in kinds * (2 if clinic else 1):
        value = rng.uniform(0.5, 0.9) if clinic else rng.uniform(0.35, 0.8)
        materials.append(_pattern(rng, BOX_TEXELS, kind, _colour(rng, 0.12 if clinic else 0.35, value)))
    return materials


def draw_clothes(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return surfaces of trousers, sleeves and skin, each float32 [BOX_TEXELS, BOX_TEXELS, 3]."""
    trousers = _pattern(rng, BOX_TEXELS, "plain", _colour(rng, 0.4, rng.uniform(0.15, 0.5)))
    sleeves = _pattern(rng, BOX_TEXELS, str(rng.choice(["plain", "stripes", "checks"])), _colour(rng, 0.4, 0.6))
    skin = _pattern(rng, BOX_TEXELS, "plain", np.array([0.9, 0.68, 0.55], np.float32) * rng.uniform(0.45, 1.0))
    return trousers, sleeves, skin


def _frame(picture: np.ndarray, top: int, left: int, height: int, width: int, border: int, colour: np.ndarray) -> tuple:
    """Paint a rectangle with a border of the colour; returns the slices of its inside."""
    picture[top : top + height, left : left + width] = colour
    return slice(top + border, top + height - border), slice(left + border, left + width - border)


def _paint_wall(rng: np.random.Generator, wall: np.ndarray, width_m: float, height_m: float, door: bool) -> None:
    """Put a skirting board, windows, pictures and perhaps a door on a wall [S, S, 3]; row 0 is the floor."""
    size = wall.shape[0]
    per_row, per_column = size / height_m, size / width_m
    wall[: int(0.12 * per_row)] = _colour(rng, 0.1, 0.35)
    left = 0.6
    while left < width_m - 2.2:
        kind = "door" if door else str(rng.choice(["window", "picture", "picture", "gap"]))
        door = False
        width = {"door": 0.95, "window": 1.5, "picture": rng.uniform(0.4, 1.2), "gap": 0.5}[kind]
        bottom, height = {"door": (0.0, 2.05), "window": (0.9, 1.3), "gap": (0.0, 0.0)}.get(
            kind, (rng.uniform(1.0, 1.5), rng.uniform(0.4, 0.9))
        )
        if kind != "gap":
            border = _colour(rng, 0.3, rng.uniform(0.2, 0.9))
            inside = _frame(
                wall,
                int(bottom * per_row),
                int(left * per_column),
                int(height * per_row),
                int(width * per_column),
                6,
                border,
            )
            shape = wall[inside].shape[:2]
            if kind == "door":
                wall[inside] = _pattern(rng, size, "planks", _colour(rng, 0.35, 0.5))[: shape[0], : shape[1]]
            elif kind == "window":
                sky = np.linspace(0.55, 1.0, shape[0], dtype=np.float32)[:, None, None]
                wall[inside] = 1.35 * sky * np.array([0.85, 0.95, 1.0], np.float32)
                wall[inside][:, shape[1] // 2 - 3 : shape[1] // 2 + 3] = border
                wall[inside][shape[0] // 2 - 4 : shape[0] // 2 + 4] = border
            else:
                clouds = np.stack([_clouds(rng, 128, 2, 0.6) for _ in range(3)], axis=-1)
                picture = np.clip(_colour(rng, 0.6, 0.6) * (1.0 + 0.9 * clouds), 0.0, 1.0)
                wall[inside] = picture[
                    np.ix_(np.arange(shape[0]) * 128 // shape[0], np.arange(shape[1]) * 128 // shape[1])
                ]
        left += width + rng.uniform(0.3, 1.5)


def paint_room(
    atlas: Atlas, low: np.ndarray, high: np.ndarray, materials: list[np.ndarray], light: Light, rng: np.random.Generator
) -> None:
    """Append the room's faces, seen from inside, in the order x low, x high, y low, y high, floor, ceiling."""
    clinic_wall = materials[0].mean() > 0.5
    size = high - low
    wall_kind = str(rng.choice(["stripes", "bricks", "plain", "speckle"]))
    floor_kind = str(rng.choice(["tiles", "speckle"] if clinic_wall else ["planks", "tiles", "checks"]))
    wall_colour = _colour(rng, 0.18, rng.uniform(0.65, 0.95))
    floor_colour = _colour(rng, 0.2, rng.uniform(0.45, 0.7))
    for axis in range(3):
        u, v = [i for i in range(3) if i != axis]
        for end in (0, 1):
            if axis == 2:
                kind, colour = (floor_kind, floor_colour) if end == 0 else ("tiles", _colour(rng, 0.05, 0.85))
                picture = _pattern(rng, ROOM_TEXELS, kind, colour)
            else:
                shade = rng.uniform(0.75, 1.1)
                picture = _pattern(rng, ROOM_TEXELS, wall_kind, np.clip(wall_colour * shade, 0.0, 1.0))
                _paint_wall(rng, picture, size[u], size[2], door=axis == 0)
            normal = np.zeros(3)
            normal[axis] = 1.0 - 2.0 * end
            grid = (np.arange(ROOM_TEXELS // 8) + 0.5) / (ROOM_TEXELS // 8)
            points = np.empty((len(grid), len(grid), 3))
            points[..., axis] = (low, high)[end][axis]
            points[..., u] = (low[u] + size[u] * grid)[None, :]
            points[..., v] = (low[v] + size[v] * grid)[:, None]
            lit = light.on(points, normal).astype(np.float32)
            picture *= np.repeat(np.repeat(lit, 8, 0), 8, 1)
            if axis == 2 and end == 1:
                lamp = ((light.position - low) / size * ROOM_TEXELS).astype(int)
                picture[lamp[1] - 24 : lamp[1] + 24, lamp[0] - 40 : lamp[0] + 40] = 1.0
            atlas.add(picture, float(max(size[u], size[v])))


def paint_box(
    atlas: Atlas, centre: np.ndarray, rotation: np.ndarray, size: np.ndarray, material: np.ndarray, light: Light
) -> None:
    """Append a box's faces, seen from outside, in the order x low, x high, y low, y high, z low, z high."""
    for axis in range(3):
        for sign in (-1.0, 1.0):
            normal = sign * rotation[:, axis]
            middle = centre + 0.5 * size[axis] * normal
            face = material * light.on(middle, normal).astype(np.float32)
            face[[0, -1]] *= 0.55
            face[:, [0, -1]] *= 0.55
            atlas.add(face, float(np.delete(size, axis).max()))
