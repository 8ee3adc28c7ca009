"""How the camera turned from frame to frame, seen in the pictures alone; fast enough to run beside the decoder.

Each picture is shrunk to a small grey one. For a pair of neighbouring frames

1. phase correlation (Kuglin & Hines 1975) gives the shift of the whole picture, however far it went;
2. a rotation and a zoom are fitted to the pictures' gradients by Lucas & Kanade's (1981) normal equations, at half size
   and at full size, tile by tile: each tile is compared with the tile that the last fit points to.

With x, y the position in the picture over the focal length, a camera (x right, y down, z into the picture) that turns
by (a, b, c) radians moves the still points of its picture by (Longuet-Higgins & Prazdny 1980)

    u = f (x y a - (1 + x^2) b + y c),    v = f ((1 + y^2) a - x y b - x c)

and one that moves along its axis by f (z x, z y). With z unknown, this is linear in (a, b, c, z). Tiles that do not
follow it (limbs, passers-by) lose their weight (iteratively reweighted least squares with Geman & McClure's weights).

The focal length is not known: ``FOCAL`` stands for it, so a and b are too large or too small by one factor for the
whole recording, while c is right. Who compares with a gyroscope has to fit that factor (:mod:`shards.sync`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft

FOCAL = 0.7
"""Focal length that is assumed, over the longer side of the picture: 71 degrees across."""
MIN_STEP_S = 0.045
"""Frames that follow sooner than this on the last that was kept are left out: of 30 a second, every other."""
MAX_PAIR_S = 0.25
"""Frames further apart than this say nothing of the motion between them."""
_SIDE = 48
"""Shorter side of the small pictures, pixels, at least; the longer is cut to at most 1.5 times of it."""
_READINGS = 6
"""Of the pixels that make one of the small picture, at most this many a side are read; with fewer, texture flickers."""
_BATCH = 32
_TILE = 8
_MIN_TILES = 9
_ROUNDS = 3
_LEVEL = 2.0
"""Grey levels of 255 that noise and compression change a small picture by."""


@dataclass(frozen=True, eq=False)
class MotionTrack:
    """Rotation of the camera between pairs of frames."""

    start_s: np.ndarray
    """float64 [N], increasing: when the first frame of each pair is shown."""
    end_s: np.ndarray
    """float64 [N]: when the second is."""
    rotation: np.ndarray
    """float64 [N, 3], radians about x right, y down, z into the picture, the camera against the world; x and y as if
    the focal length were ``FOCAL``."""
    weight: np.ndarray
    """float64 [N], 0 to 1: how well a rotation explains the pair; 0 where nothing could be seen."""


class MotionTracker:
    """Follows the camera through a video: ``add`` every frame as it is decoded, then ask for the ``track``."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._greys: list[np.ndarray] = []
        self._parts: list[tuple[np.ndarray, ...]] = []
        self._last_s = -np.inf
        self._shape: tuple[int, ...] = ()
        self._fit: _Fit | None = None

    def add(self, time_s: float, picture: np.ndarray) -> None:
        """Take the next frame.

        Args:
            time_s: when it is shown, seconds; one that is not later than the frame before, or never, is left out.
            picture: grey uint8 [h, w], of any size, the same for all; of 32 pixels or less nothing is seen.
        """
        if not (math.isfinite(time_s) and time_s - self._last_s > MIN_STEP_S):
            return
        if picture.shape != self._shape:
            self._flush()
            self._times, self._greys, self._shape = [], [], picture.shape
            self._fit = _Fit.of(picture.shape)
        if self._fit is None:
            return
        grey = self._fit.shrink(picture)
        # A frame that repeats the one before shows the same instant: the motion is that to the next new one.
        if self._greys and np.array_equal(grey, self._greys[-1]):
            return
        self._last_s = time_s
        self._times.append(time_s)
        self._greys.append(grey)
        if len(self._greys) > _BATCH:
            self._flush()

    def track(self) -> MotionTrack:
        """Return what was seen so far; empty for fewer than two frames."""
        self._flush()
        empty = (np.zeros(0), np.zeros(0), np.zeros((0, 3)), np.zeros(0))
        return MotionTrack(*(np.concatenate(parts) for parts in zip(empty, *self._parts, strict=True)))

    def _flush(self) -> None:
        if len(self._greys) < 2 or self._fit is None:
            return
        rotation, weight = self._fit.pairs(np.stack(self._greys).astype(np.float32))
        start, end = np.array(self._times[:-1]), np.array(self._times[1:])
        weight[end - start > MAX_PAIR_S] = 0.0
        self._parts.append((start, end, rotation, weight))
        self._times, self._greys = self._times[-1:], self._greys[-1:]


class _Level:
    """One size of the small pictures, cut into tiles, with the flow model at the tiles' middles.

    Args:
        height, width: of the pictures, multiples of ``tile``, pixels.
        tile: side of a tile, pixels.
        focal_px: focal length, pixels.
    """

    def __init__(self, height: int, width: int, tile: int, focal_px: float):
        self.tile, self.height, self.width = tile, height, width
        self.rows, self.columns = height // tile, width // tile
        top, left = np.meshgrid(np.arange(0, height, tile), np.arange(0, width, tile), indexing="ij")
        self.top, self.left = top, left
        y = (top.ravel() + 0.5 * (tile - height)) / focal_px
        x = (left.ravel() + 0.5 * (tile - width)) / focal_px
        flow = [[x * y, 1.0 + y * y], [-(1.0 + x * x), -x * y], [y, -x], [x, y]]
        self.flow = focal_px * np.array(flow).transpose(2, 1, 0)
        """[T, 2, 4]: pixels a radian (for z: a unit) by tile, direction and parameter."""
        self.normal = np.einsum("tip,tjq->tijpq", self.flow, self.flow)
        self.pixels = np.arange(height * width).reshape(self.rows, tile, self.columns, tile)
        self.members = np.eye(self.columns, dtype=np.float32).repeat(tile, axis=0)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum [B, height, width] over the tiles: [B, T], float64."""
        batch = len(values)
        # By a matrix, as sums over a few neighbours are slow in numpy.
        by_columns = values.reshape(-1, self.width) @ self.members
        by_tile = by_columns.reshape(batch, self.rows, self.tile, self.columns).sum(axis=2)
        return by_tile.reshape(batch, -1).astype(np.float64)

    def refine(self, pictures: np.ndarray, motion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fit the motion anew.

        The gradients are those of the first picture of each pair (Baker & Matthews 2004: the inverse compositional form
        of Lucas & Kanade's algorithm).

        Args:
            pictures: float32 [B + 1, height, width].
            motion: float64 [B, 4], the fit so far.

        Returns:
            The motion [B, 4], and the share [B] of the tiles that agree with it, 0 where fewer than ``_MIN_TILES``
            can be compared at all.
        """
        area = float(self.tile * self.tile)
        before = pictures[:-1]
        x, y = np.zeros_like(before), np.zeros_like(before)
        np.subtract(before[:, :, 2:], before[:, :, :-2], out=x[:, :, 1:-1])
        np.subtract(before[:, 2:], before[:, :-2], out=y[:, 1:-1])
        x *= np.float32(0.5)
        y *= np.float32(0.5)
        moved, shift, inside = self._moved(pictures, motion)
        change = moved - before
        # Less the means over the tile, which take a change of brightness with them.
        sx, sy, sc = self.sums(x), self.sums(y), self.sums(change)
        xx, yy = self.sums(x * x) - sx * sx / area, self.sums(y * y) - sy * sy / area
        xy = self.sums(x * y) - sx * sy / area
        xc, yc = self.sums(x * change) - sx * sc / area, self.sums(y * change) - sy * sc / area
        # The tile's own shift counts from where the tile was looked for.
        xc, yc = xc - xx * shift[:, 0] - xy * shift[:, 1], yc - xy * shift[:, 0] - yy * shift[:, 1]
        return self._solve(xx, xy, yy, xc, yc, inside)

    def _moved(self, pictures: np.ndarray, motion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the second pictures with each tile where the motion points to, by how much [B, 2, T], and whether
        that is inside of the picture [B, T]; where not, the tile stays where it is."""
        batch = len(motion)
        shift = np.rint(motion @ self.flow.transpose(2, 1, 0).reshape(4, -1)).astype(np.intp)
        shift = shift.reshape(batch, 2, self.rows, self.columns)
        top, left = self.top + shift[:, 1], self.left + shift[:, 0]
        inside = (top >= 0) & (left >= 0) & (top <= self.height - self.tile) & (left <= self.width - self.tile)
        shift *= inside[:, None]
        offset = shift[:, 1] * self.width + shift[:, 0]
        offset += (np.arange(1, batch + 1) * (self.height * self.width))[:, None, None]
        index = (self.pixels + offset[:, :, None, :, None]).reshape(batch, self.height, self.width)
        moved = np.take(pictures, index, mode="clip")
        return moved, shift.reshape(batch, 2, -1), inside.reshape(batch, -1)

    def _solve(
        self, xx: np.ndarray, xy: np.ndarray, yy: np.ndarray, xc: np.ndarray, yc: np.ndarray, inside: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fit one motion to the normal equations of the tiles, each [B, T]."""
        batch = len(xx)
        noise = _LEVEL**2 * self.tile**2 / 16.0
        a, b = xx + noise, yy + noise
        reciprocal = 1.0 / (a * b - xy * xy)
        texture = inside & (xx + yy > 4.0 * noise)
        count = texture.sum(axis=1)
        weight = texture.astype(np.float64)
        # So many pixels' worth of noise keep the fit from running off where there is no texture; zoom is rare.
        prior = noise * np.diag([1.0, 1.0, 1.0, 4.0]) * self.flow[0, 1, 0] ** 2
        for _ in range(_ROUNDS):
            left = np.stack([weight * xx, weight * xy, weight * xy, weight * yy], axis=2).reshape(batch, -1)
            right = np.stack([weight * xc, weight * yc], axis=2).reshape(batch, -1) @ self.flow.reshape(-1, 4)
            matrices = (left @ self.normal.reshape(-1, 16)).reshape(-1, 4, 4) + prior
            motion = -np.linalg.solve(matrices, right[:, :, None])[:, :, 0]
            # How far each tile is, by its own gradients, from where the motion puts it; infinitely without texture.
            u, v = (motion @ self.flow[:, way].T for way in (0, 1))
            rx, ry = xx * u + xy * v + xc, xy * u + yy * v + yc
            du, dv = (b * rx - xy * ry) * reciprocal, (a * ry - xy * rx) * reciprocal
            squared = np.where(texture, du * du + dv * dv, np.inf)
            middle = np.sort(squared, axis=1)[np.arange(batch), count // 2]
            weight = 1.0 / (1.0 + squared / (2.25 * np.clip(middle, 0.01, 1.0)[:, None])) ** 2
        agree = (squared < 0.25).sum(axis=1) / np.maximum(count, 1)
        return np.clip(motion, -1.0, 1.0), np.where(count >= _MIN_TILES, agree, 0.0)


class _Fit:
    """Everything that depends on the size of the pictures."""

    def __init__(self, factor: int, height: int, width: int, focal_px: float):
        self.factor, self.height, self.width = factor, height, width
        num = min(factor, _READINGS)
        self.readings = [(2 * i + 1) * factor // (2 * num) for i in range(num)]
        self.full = _Level(height, width, _TILE, focal_px)
        self.half = _Level(height // 2, width // 2, _TILE // 2, 0.5 * focal_px)
        rows, columns = height // 2, width // 2
        self.window = np.outer(np.hanning(rows + 2)[1:-1], np.hanning(columns + 2)[1:-1]).astype(np.float32)
        squared = np.fft.fftfreq(rows)[:, None] ** 2 + np.fft.rfftfreq(columns) ** 2
        self.low_pass = np.exp(-squared / (2.0 * 0.18**2)).astype(np.float32)

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> _Fit | None:
        """Return the fit for pictures of a shape; None where they are too small."""
        short, long = sorted(shape[:2])
        factor = max(1, short // _SIDE)
        limit = int(1.5 * (short // factor))
        height, width = (min(side // factor, limit) // _TILE * _TILE for side in shape[:2])
        if min(height, width) < 4 * _TILE:
            return None
        return cls(factor, height, width, FOCAL * long / factor)

    def shrink(self, picture: np.ndarray) -> np.ndarray:
        """Return the middle of a picture, each pixel the sum of up to 4 x 4 readings: uint16 [height, width]."""
        step, height, width = self.factor, self.height, self.width
        top, left = (picture.shape[0] - step * height) // 2, (picture.shape[1] - step * width) // 2
        middle = picture[top : top + step * height, left : left + step * width]
        rows = np.add.reduce(middle.reshape(height, step, -1)[:, self.readings], axis=1, dtype=np.uint16)
        grey = rows[:, self.readings[0] :: step].copy()
        for reading in self.readings[1:]:
            grey += rows[:, reading::step]
        return grey

    def pairs(self, greys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rotation [B, 3] and the weight [B] of each pair of neighbours of float32 [B + 1, h, w]."""
        pictures = _smooth(greys * np.float32(1.0 / len(self.readings) ** 2))
        halves = 0.25 * (
            pictures[:, ::2, ::2] + pictures[:, 1::2, ::2] + pictures[:, ::2, 1::2] + pictures[:, 1::2, 1::2]
        )
        motion = np.zeros((len(greys) - 1, 4))
        down, right = self._shift(halves)
        motion[:, 0], motion[:, 1] = down / self.half.flow[0, 1, 0], -right / self.half.flow[0, 1, 0]
        motion, _ = self.half.refine(halves, motion)
        motion, agree = self.full.refine(pictures, motion)
        return motion[:, :3], agree

    def _shift(self, halves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return how far the half pictures moved as a whole, down and right, pixels, int [B] each."""
        spectra = scipy.fft.rfft2((halves - halves.mean(axis=(1, 2), keepdims=True)) * self.window)
        cross = np.conj(spectra[:-1]) * spectra[1:]
        size = np.abs(cross)
        cross *= self.low_pass / (size + 1e-3 * size.mean(axis=(1, 2), keepdims=True) + np.float32(1e-6))
        rows, columns = halves.shape[1:]
        peak = scipy.fft.irfft2(cross, s=(rows, columns)).reshape(len(cross), -1).argmax(axis=1)
        down, right = np.divmod(peak, columns)
        return np.where(down > rows // 2, down - rows, down), np.where(right > columns // 2, right - columns, right)


def _smooth(pictures: np.ndarray) -> np.ndarray:
    """Blur [B, h, w] by the binomial filter of three: gradients then hold over a pixel."""
    padded = np.pad(pictures, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :-2] + 2.0 * padded[:, 1:-1] + padded[:, 2:]
    return np.float32(1.0 / 16.0) * (rows[:, :, :-2] + 2.0 * rows[:, :, 1:-1] + rows[:, :, 2:])
