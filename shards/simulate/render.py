"""A pinhole camera in a room of boxes: every pixel's ray is cut with the room and the boxes, in numpy alone."""

from __future__ import annotations

import math

import numpy as np

from shards.simulate.scene import Scene
from shards.simulate.texture import NUM_LEVELS

NEAR_M = 0.03
_ALMOST_0 = np.float32(1e-9)
_CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
_EDGES = np.array([[a, b] for a in range(8) for b in range(a + 1, 8) if (_CORNERS[a] != _CORNERS[b]).sum() == 1])


class Renderer:
    """Renders a scene at a picture size.

    Args:
        scene: what is seen.
        size: width and height of the square picture, pixels.
        fov_deg: angle of view across the picture, degrees: the focal length is ``size / 2 / tan(fov / 2)`` pixels and
            the optical axis goes through the picture's centre.
    """

    def __init__(self, scene: Scene, size: int, fov_deg: float):
        self._scene = scene
        self._size = size
        self.focal_px = 0.5 * size / math.tan(math.radians(0.5 * fov_deg))
        grid = (np.arange(size, dtype=np.float32) + 0.5 - 0.5 * size) / np.float32(self.focal_px)
        self._rays = np.stack([*np.meshgrid(grid, grid), np.ones((size, size), np.float32)])
        self._num_still = len(scene.boxes) - len(scene.limbs)
        self._centres = np.array([box.centre for box in scene.boxes]).reshape(-1, 3)
        self._rotations = np.array([box.rotation for box in scene.boxes]).reshape(-1, 3, 3)
        self._sizes = np.array([box.size for box in scene.boxes]).reshape(-1, 3)
        atlas = scene.atlas
        self._footprint = (atlas.density / self.focal_px).astype(np.float32)

    def render(
        self,
        position: np.ndarray,
        rotation: np.ndarray,
        limb_positions: np.ndarray,
        limb_rotations: np.ndarray,
    ) -> np.ndarray:
        """Return the picture, uint8 [size, size, 3] RGB.

        Args:
            position: float64 [3], the camera in the world, metres.
            rotation: float64 [3, 3], camera (x right, y down, z into the picture) to world.
            limb_positions: float64 [L, 3], centres of the scene's limbs, metres.
            limb_rotations: float64 [L, 3, 3], limbs to world.
        """
        size = self._size
        self._centres[self._num_still :] = limb_positions
        self._rotations[self._num_still :] = limb_rotations
        face, u, v, depth = self._room(position, rotation)
        for index, (top, bottom, left, right) in self._visible(position, rotation):
            window = slice(top, bottom), slice(left, right)
            self._box(index, position, rotation, window, face, u, v, depth)
        return self._shade(face, u, v, depth).view(np.uint8).reshape(size, size, 4)[..., :3]

    def _room(self, position: np.ndarray, rotation: np.ndarray) -> tuple[np.ndarray, ...]:
        """Face [S, S] int32, texture coordinates u and v in 0 to 1, and depth along the optical axis of the room."""
        scene, size = self._scene, self._size
        extent = scene.high - scene.low
        # In units of the room: its walls are at 0 and 1.
        origin = ((position - scene.low) / extent).astype(np.float32)
        rays = ((rotation / extent[:, None]).astype(np.float32) @ self._rays.reshape(3, -1)).reshape(3, size, size)
        rays[rays == 0.0] = _ALMOST_0
        ahead = rays > 0.0
        depths = (ahead - origin[:, None, None]) / rays
        depth = np.minimum(np.minimum(depths[0], depths[1]), depths[2])
        on_x, on_z = depth == depths[0], depth == depths[2]
        face = np.where(on_x, ahead[0], np.where(on_z, ahead[2] + np.int32(4), ahead[1] + np.int32(2)))
        hit = origin[:, None, None] + depth * rays
        return face.astype(np.int32), np.where(on_x, hit[1], hit[0]), np.where(on_z, hit[1], hit[2]), depth

    def _visible(self, position: np.ndarray, rotation: np.ndarray) -> list[tuple[int, tuple[int, int, int, int]]]:
        """Boxes that may be in the picture, with the rectangle (top, bottom, left, right) that holds them."""
        corners = self._centres[:, None] + np.einsum("bij,bcj->bci", self._rotations, _CORNERS * self._sizes[:, None])
        seen = (corners - position) @ rotation
        start, end = seen[:, _EDGES[:, 0]], seen[:, _EDGES[:, 1]]
        crosses = (start[..., 2] > NEAR_M) != (end[..., 2] > NEAR_M)
        share = np.where(crosses, (NEAR_M - start[..., 2]) / np.where(crosses, end[..., 2] - start[..., 2], 1.0), 0.0)
        # The part in front of the camera is spanned by its corners and by the edges' cuts with the near plane.
        points = np.concatenate([seen, start + share[..., None] * (end - start)], axis=1)
        counts = np.concatenate([seen[..., 2] > NEAR_M, crosses], axis=1)
        depth = np.where(counts, points[..., 2], 1.0)
        pixels = points[..., :2] / depth[..., None] * self.focal_px + 0.5 * self._size
        low = np.floor(np.where(counts[..., None], pixels, np.inf).min(axis=1).clip(0, self._size))
        high = np.ceil(np.where(counts[..., None], pixels, -np.inf).max(axis=1).clip(0, self._size))
        low, high = low.astype(int), high.astype(int)
        shown = np.flatnonzero((high > low).all(axis=1))
        return [(int(i), (low[i, 1], high[i, 1], low[i, 0], high[i, 0])) for i in shown]

    def _box(
        self,
        index: int,
        position: np.ndarray,
        rotation: np.ndarray,
        window: tuple[slice, slice],
        face: np.ndarray,
        u: np.ndarray,
        v: np.ndarray,
        depth: np.ndarray,
    ) -> None:
        """Draw a box into a window of the buffers where it is nearer (slab method, Kay & Kajiya 1986)."""
        to_box = self._rotations[index].T / self._sizes[index][:, None]
        origin = (to_box @ (position - self._centres[index]) + 0.5).astype(np.float32)
        if (origin > 0.0).all() and (origin < 1.0).all():
            return
        part = self._rays[:, window[0], window[1]]
        shape = part.shape[1:]
        rays = (to_box @ rotation).astype(np.float32) @ part.reshape(3, -1)
        rays[rays == 0.0] = _ALMOST_0
        inverse = np.float32(1.0) / rays
        first = -origin[:, None] * inverse
        second = first + inverse
        entries = np.minimum(first, second)
        exits = np.maximum(first, second)
        enter = np.maximum(np.maximum(entries[0], entries[1]), entries[2])
        leave = np.minimum(np.minimum(exits[0], exits[1]), exits[2])
        hits = np.flatnonzero((enter < leave) & (enter > NEAR_M) & (enter < depth[window].reshape(-1)))
        if len(hits) == 0:
            return
        near = enter[hits]
        direction = rays[:, hits]
        entries = entries[:, hits]
        at = origin[:, None] + near * direction
        on_x, on_y = near == entries[0], near == entries[1]
        axis = np.where(on_x, 0, np.where(on_y, 1, 2))
        negative = np.where(on_x, direction[0], np.where(on_y, direction[1], direction[2])) < 0.0
        rows, columns = np.divmod(hits, shape[1])
        where = rows + window[0].start, columns + window[1].start
        face[where] = 6 + 6 * index + 2 * axis + negative
        u[where] = np.where(on_x, at[1], at[0])
        v[where] = np.where(on_x | on_y, at[2], at[1])
        depth[where] = near

    def _shade(self, face: np.ndarray, u: np.ndarray, v: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Texels [S, S] uint32 at texture coordinates, from the level whose texels are as large as the pixels."""
        atlas = self._scene.atlas
        shift = atlas.shifts[face]
        # The exponent of a float is the floor of its logarithm to base 2.
        level = ((depth * self._footprint[face]).view(np.int32) >> 23) - 127
        np.clip(level, 0, NUM_LEVELS - 1, out=level)
        shift -= level
        side = np.left_shift(np.int32(1), shift)
        scale = side.astype(np.float32)
        column = np.minimum((u * scale).astype(np.int32), side - 1)
        row = np.minimum((v * scale).astype(np.int32), side - 1)
        np.maximum(column, 0, out=column)
        np.maximum(row, 0, out=row)
        return atlas.texels[atlas.offsets[face * NUM_LEVELS + level] + (row << shift) + column]
