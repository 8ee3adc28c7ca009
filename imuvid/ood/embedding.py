"""Windows through a frozen encoder."""

from __future__ import annotations

import dataclasses
import hashlib

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
        recording = statistics(windows.imu[rows], windows.valid[rows])
        for row in rows:
            imu[row] = condition(windows.imu[row], windows.valid[row], config, recording)
    return dataclasses.replace(windows, imu=imu)


@torch.inference_mode()
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
    encoder = encoder.to(device)
    positions = windows.positions
    groups = [slice(None)] if sensors == "together" else [slice(p, p + 1) for p in range(len(positions))]
    rows = []
    for start in range(0, len(windows.label), batch_size):
        imu, valid = (
            torch.from_numpy(array[start : start + batch_size]).to(device) for array in (windows.imu, windows.valid)
        )
        features = []
        for group in groups:
            if isinstance(encoder, Encoder):
                encoder.tower.wear(positions[group])
            features.append(encoder(imu[:, :, group], valid[:, :, group]))
        rows.append(torch.cat(features, dim=1).float().cpu().numpy())
    array = np.concatenate(rows)
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
