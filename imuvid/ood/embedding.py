"""Windows through a frozen encoder."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import imuvid.imu
import imuvid.models
from imuvid.errors import UserError
from imuvid.imu.condition import ConditionConfig, condition, statistics
from imuvid.models.encoder import Encoder
from imuvid.ood.cache import ArrayCache, code_sha256, content_key
from imuvid.ood.datasets.base import Windows

_CHUNK = 1024
"""Windows of a recording that are conditioned at once, so that what the filter holds meanwhile stays small."""


def choose_device(name: str) -> torch.device:
    """Return the device that ``name`` (auto, cpu, cuda, cuda:1) means.

    Raises:
        UserError: torch knows no such device, or it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name}: {str(error).splitlines()[0]}: use cpu, cuda or auto") from error
    return device


def conditioned(windows: Windows, config: ConditionConfig) -> Windows:
    """Return the windows as the encoder's were in pretraining; a recording's statistics are those of its windows here.

    Args:
        windows: in SI units.
        config: of the encoder.
    """
    if config == ConditionConfig():
        return windows
    imu = np.empty_like(windows.imu)
    for name in np.unique(windows.recording):
        rows = np.flatnonzero(windows.recording == name)
        imu[rows] = condition_recording(windows.imu[rows], windows.valid[rows], config)
    return dataclasses.replace(windows, imu=imu)


def condition_recording(imu: np.ndarray, valid: np.ndarray, config: ConditionConfig) -> np.ndarray:
    """Return the windows of one recording as an encoder's were in pretraining: float32 like ``imu``.

    Args:
        imu: float32 [N, T, P, 6], m/s^2 and rad/s.
        valid: bool [N, T, P, 2].
        config: of the encoder.
    """
    if config.normalise == "window":
        return np.stack([condition(x, v, config) for x, v in zip(imu, valid, strict=True)])
    recording = statistics(imu, valid)
    parts = [slice(start, start + _CHUNK) for start in range(0, len(imu), _CHUNK)]
    return np.concatenate([condition(imu[part], valid[part], config, recording) for part in parts])


@torch.inference_mode()
def features_of(
    encoder: Callable[..., Any],
    imu: np.ndarray,
    valid: np.ndarray,
    batch_size: int,
    device: torch.device,
    positions: Sequence[str] = (),
) -> np.ndarray:
    """Return what the encoder makes of windows as it wants them, in their order: float32 [N, D].

    Args:
        encoder: a torch module in eval mode, which is moved to the device and gets tensors; or any function of the
            arrays imu float32 [B, T, P, 6] and valid bool [B, T, P, 2] that returns an array [B, D].
        imu: float32 [N, T, P, 6], N at least 1.
        valid: bool [N, T, P, 2].
        batch_size: windows that go through it at once.
        device: where it runs.
        positions: of the P sensors; empty where unknown.

    Raises:
        UserError: a function returned something else than one row a window.
    """
    parts = [slice(start, start + batch_size) for start in range(0, len(imu), batch_size)]
    if not isinstance(encoder, torch.nn.Module):
        return np.concatenate([_called(encoder, imu[part], valid[part]) for part in parts])
    encoder = encoder.to(device)
    if isinstance(encoder, Encoder):
        encoder.tower.wear(list(positions))
    rows = []
    for part in parts:
        # Copies to a device go by themselves while the one before is worked on, and nothing waits for a result.
        arrays = (np.ascontiguousarray(array[part]) for array in (imu, valid))
        rows.append(encoder(*(torch.from_numpy(array).to(device, non_blocking=True) for array in arrays)).float())
    return torch.cat(rows).cpu().numpy()


def _called(function: Callable[..., Any], imu: np.ndarray, valid: np.ndarray) -> np.ndarray:
    features = np.asarray(function(imu, valid), dtype=np.float32)
    if features.ndim != 2 or len(features) != len(imu):
        raise UserError(
            f"the model returned an array of shape {list(features.shape)} for {len(imu)} windows: it must return one"
            " row of features for each"
        )
    return features


def embed(
    encoder: Callable[..., Any], windows: Windows, batch_size: int, device: torch.device, sensors: str = "apart"
) -> np.ndarray:
    """Return the representations float32 [N, D] of the windows, in their order.

    Args:
        encoder: as for :func:`features_of`.
        windows: N windows, conditioned as it wants them.
        batch_size: B.
        device: where it runs; a torch module is moved there.
        sensors: ``apart``: each of the P sensors goes through the encoder alone and their features stand side by
            side, so that a probe knows which is which; ``together``: the encoder combines them in its own way.

    Raises:
        UserError: a representation is not finite.
    """
    positions = windows.positions
    groups = [slice(None)] if sensors == "together" else [slice(p, p + 1) for p in range(len(positions))]
    features = [
        features_of(encoder, windows.imu[:, :, group], windows.valid[:, :, group], batch_size, device, positions[group])
        for group in groups
    ]
    array = np.concatenate(features, axis=1) if len(features) > 1 else features[0]
    if not np.isfinite(array).all():
        num = int((~np.isfinite(array).all(axis=1)).sum())
        raise UserError(
            f"{windows.name}: the encoder gives NaN or infinity for {num} of {len(array)} windows: "
            "the pretraining diverged, take an earlier checkpoint"
        )
    return array


def represent(
    encoder: Callable[..., Any],
    windows: Windows,
    condition: ConditionConfig,
    batch_size: int,
    device: torch.device,
    sensors: str,
    cache: ArrayCache | None = None,
) -> np.ndarray:
    """Return the representations float32 [N, D] of windows in SI units, from the cache where they are there.

    The key is made of the weights, the architecture, the content of the windows and all that decides how they go
    through, down to the program's own code. Functions and modules other than :class:`Encoder` are not cached: nothing
    says what they compute.

    Args:
        encoder: as for :func:`features_of`.
        windows: N windows in SI units.
        condition: what the encoder wants done to them.
        batch_size, device, sensors: as for :func:`embed`.
        cache: where representations are kept.

    Raises:
        UserError: as :func:`embed`.
    """

    def make() -> dict[str, np.ndarray]:
        return {"features": embed(encoder, conditioned(windows, condition), batch_size, device, sensors)}

    if cache is None or not isinstance(encoder, Encoder) or encoder.config.tower.kind == "external":
        return make()["features"]
    key = content_key(
        "embedding 1",
        _code(),
        torch.__version__,
        device.type,
        batch_size,
        sensors,
        weights_sha256(encoder),
        dataclasses.asdict(encoder.config.tower),
        dataclasses.asdict(condition),
        windows.positions,
        windows.recording if condition.normalise == "recording" else "",
        windows.imu,
        windows.valid,
    )
    return cache.fetch(key, make)["features"]


@functools.cache
def _code() -> str:
    return code_sha256(*(Path(package.__path__[0]) for package in (imuvid.models, imuvid.imu)), Path(__file__))


def weights_sha256(encoder: torch.nn.Module) -> str:
    """Return a hash, 64 hex digits, of the names and values of the encoder's state."""
    digest = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
