"""Windows through a frozen encoder."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from imuvid.errors import UserError
from imuvid.imu.condition import ConditionConfig, condition, statistics
from imuvid.models.encoder import Encoder
from imuvid.ood.datasets.base import Windows


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
    recording = statistics(imu, valid)
    return np.stack([condition(x, v, config, recording) for x, v in zip(imu, valid, strict=True)])


@torch.inference_mode()
def features_of(
    encoder: torch.nn.Module,
    imu: np.ndarray,
    valid: np.ndarray,
    batch_size: int,
    device: torch.device,
    positions: Sequence[str] = (),
) -> np.ndarray:
    """Return what the encoder makes of windows as it wants them, in their order: float32 [N, D].

    Args:
        encoder: in eval mode; moved to the device.
        imu: float32 [N, T, P, 6], N at least 1.
        valid: bool [N, T, P, 2].
        batch_size: windows that go through it at once.
        device: where it runs.
        positions: of the P sensors; empty where unknown.
    """
    encoder = encoder.to(device)
    if isinstance(encoder, Encoder):
        encoder.tower.wear(list(positions))
    rows = []
    for start in range(0, len(imu), batch_size):
        part = slice(start, start + batch_size)
        features = encoder(torch.from_numpy(imu[part]).to(device), torch.from_numpy(valid[part]).to(device))
        rows.append(features.float().cpu().numpy())
    return np.concatenate(rows)


def embed(
    encoder: torch.nn.Module, windows: Windows, batch_size: int, device: torch.device, sensors: str = "apart"
) -> np.ndarray:
    """Return the representations float32 [N, D] of the windows, in their order.

    Args:
        encoder: in eval mode; called with imu float32 [B, T, P, 6] and valid bool [B, T, P, 2].
        windows: N windows.
        batch_size: B.
        device: where it runs; the encoder is moved there.
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
    array = np.concatenate(features, axis=1)
    if not np.isfinite(array).all():
        num = int((~np.isfinite(array).all(axis=1)).sum())
        raise UserError(
            f"{windows.name}: the encoder gives NaN or infinity for {num} of {len(array)} windows: "
            "the pretraining diverged, take an earlier checkpoint"
        )
    return array


def weights_sha256(encoder: torch.nn.Module) -> str:
    """Return a hash, 64 hex digits, of the names and values of the encoder's state."""
    digest = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
