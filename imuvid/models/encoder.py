"""The product of a pretraining: the IMU tower alone, as a folder that is read without executing anything in it.

An encoder folder holds ``model.safetensors`` (the tower's state) and ``config.json`` (EncoderConfig).
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from imuvid.errors import UserError
from imuvid.imu.condition import ConditionConfig, check_condition
from imuvid.manifest import MANIFEST_NAME, manifest_problem
from imuvid.models.imu_external import ImuExternal, forget_weights
from imuvid.models.tensor_file import write_tensors
from imuvid.models.towers import ImuTowerConfig, build_imu_tower, without_weights

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
ENCODER_FORMAT = 1
TRUST_VARIABLE = "IMUVID_TRUSTED_FACTORIES"
"""Environment variable: factories of external encoders, separated by commas, that loading an encoder may call."""


@dataclass
class EncoderConfig:
    """What is needed to build the tower again and to feed it."""

    tower: ImuTowerConfig
    imu_rate_hz: float
    """Rate of the windows it was trained on."""
    window_s: float
    """Their length, seconds."""
    positions: list[str] = field(default_factory=list)
    """Body positions it was trained on."""
    condition: ConditionConfig = field(default_factory=ConditionConfig)
    """What was done to the windows it was trained on, and must be done to every window that it gets."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """run, step, dataset, fingerprint, train_subjects (salted hashes)."""
    format: int = ENCODER_FORMAT


class Encoder(nn.Module):
    """An IMU tower with what it needs to know; frozen when loaded."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.tower = build_imu_tower(config.tower)
        self._frozen = False
        self._trained = [name for name, parameter in self.tower.named_parameters() if parameter.requires_grad]

    def freeze(self, frozen: bool = True) -> Encoder:
        """Keep weights and buffers as they are, whatever a probe around the encoder does; or let them be trained again.

        A frozen encoder gives no gradient to its weights and stays in evaluation mode when ``train()`` is called.
        """
        self._frozen = frozen
        for name in self._trained:
            self.tower.get_parameter(name).requires_grad_(not frozen)
        return self.train(not frozen)

    def train(self, mode: bool = True) -> Encoder:
        """Switch between training and evaluation mode; a frozen encoder stays in evaluation mode."""
        return super().train(mode and not self._frozen)

    @property
    def feature_dim(self) -> int:
        """Number of features of a window."""
        return self.tower.feature_dim

    def forward(self, imu: Tensor, valid: Tensor) -> Tensor:
        """Map imu float32 [B, T, P, 6] and valid bool [B, T, P, 2] to features float32 [B, D].

        The windows are in m/s^2 and rad/s, or conditioned as ``config.condition`` says.
        """
        return self.tower(imu, valid)


def save_encoder(folder: Path, config: EncoderConfig, tower_state: dict[str, Tensor]) -> None:
    """Write an encoder folder from the state of the tower (names without prefix, any device)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS_NAME, tower_state)
    content = dataclasses.asdict(dataclasses.replace(config, tower=without_weights(config.tower)))
    (folder / CONFIG_NAME).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def load_encoder(path: str | Path) -> Encoder:
    """Load the frozen encoder of a checkpoint folder, of its ``encoder/`` folder, or of ``checkpoints/latest``.

    For fine-tuning, call ``freeze(False)`` on it.

    Raises:
        UserError: there is no encoder, it is damaged, of another format, or needs code that is not trusted.
    """
    folder = find_tower(Path(path), "encoder")
    check_tower_files(folder)
    try:
        fields = json.loads((folder / CONFIG_NAME).read_text())
        if fields["format"] != ENCODER_FORMAT:
            raise UserError(f"{folder}: encoder format {fields['format']}, this program reads {ENCODER_FORMAT}")
        tower: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ImuTowerConfig), fields["tower"]))
        tower = without_weights(tower)  # its own follow
        _check_trusted(tower, folder)
        condition: Any = OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(ConditionConfig), fields.get("condition", {}))
        )
        check_condition(condition, f"{folder / CONFIG_NAME}: condition")
        encoder = Encoder(EncoderConfig(**{**fields, "tower": tower, "condition": condition}))
        encoder.tower.load_state_dict(load_file(folder / WEIGHTS_NAME))
    except FileNotFoundError as error:
        raise UserError(f"{folder}: {Path(error.filename or WEIGHTS_NAME).name} is missing") from error
    except (ValueError, KeyError, TypeError, RuntimeError, OmegaConfBaseException, SafetensorError) as error:
        raise UserError(f"{folder}: damaged encoder: {str(error).splitlines()[0]}") from error
    return encoder.freeze()


def random_encoder(config: EncoderConfig, seed: int) -> Encoder:
    """Return the same architecture with a fresh random initialisation that depends on ``seed`` alone.

    Of an ``external`` tower, which comes with weights, see :func:`imuvid.models.imu_external.forget_weights`.
    """
    tower = without_weights(config.tower)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(dataclasses.replace(config, tower=tower, provenance={}))
        if isinstance(encoder.tower, ImuExternal):
            forget_weights(encoder.tower.encoder)
        return encoder.freeze()


def _check_trusted(tower: ImuTowerConfig, folder: Path) -> None:
    """Refuse to run what a file names, unless the user has named it too."""
    if tower.kind != "external":
        return
    trusted = os.environ.get(TRUST_VARIABLE, "").split(",")
    if tower.external.factory not in trusted:
        raise UserError(
            f"{folder}: its encoder is built by '{tower.external.factory}', which is code: if you trust it, set"
            f" {TRUST_VARIABLE}={tower.external.factory} in the environment"
        )


def find_tower(path: Path, name: str) -> Path:
    """Return the folder of a tower's files: ``path`` itself, or folder ``name`` of the checkpoint that it is or names.

    Raises:
        UserError: there is none.
    """
    if path.name == "latest" and path.is_file():
        path = path.parent / Path(path.read_text().strip()).name
    for folder in (path / name, path):
        if (folder / CONFIG_NAME).is_file():
            return folder
    raise UserError(f"{path}: no encoder there (expected {name}/{CONFIG_NAME} in a checkpoint folder)")


def check_tower_files(folder: Path) -> None:
    """Raise UserError where a tower's files lie in a checkpoint and are not as its manifest says."""
    folder = folder.resolve()
    # A tower that was copied out of its checkpoint has no manifest.
    if any((folder.parent / name).exists() for name in (MANIFEST_NAME, "stream.json")):
        problem = manifest_problem(folder.parent, below=f"{folder.name}/")
        if problem:
            raise UserError(f"{problem}: take another checkpoint of the run")
