"""imuvid's own IMU tower: a patch transformer that sees every sensor twice, as it is mounted and by gravity."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imuvid.models.norm import GlobalBatchNorm
from imuvid.models.sensors import fold_sensors, normalise_si, pool_sensors, unfold_sensors, valid_parts
from imuvid.models.tower import Encoding, Tower

BANDS = (0.006, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.16, 0.2, 0.3, 0.4)
"""Edges of the spectral bands in units of the sampling rate: 0.3 to 20 Hz at 50 Hz."""
KINDS = ("mounted", "gravity", "posture", "acc_spectrum", "gyro_spectrum")
"""Of tokens: patches of the two views, and one token each for posture and for the spectrum of either sensor."""


@dataclass
class ImuGravityConfig:
    """Sizes, and the places on the body that have an embedding of their own."""

    stem_channels: list[int] = field(default_factory=lambda: [64, 128])
    """Output channels of the convolutions of each view, each of which halves the rate."""
    stem_kernels: list[int] = field(default_factory=lambda: [7, 5])
    """Their kernels, samples."""
    num_filters: int = 32
    """Filters that the view by gravity applies alike to all three axes."""
    patch_kernel: int = 5
    """Kernel of the convolution that makes the tokens, which halves the rate once more."""
    d_model: int = 64
    """Width of the tokens."""
    num_layers: int = 2
    num_heads: int = 4
    ffn_dim: int = 128
    unnamed_share: float = 0.5
    """Share of windows that are trained on without being told where their sensors are worn."""
    places: list[str] = field(default_factory=list)
    """Places on the body that have an embedding; pretraining fills in those of its dataset."""


class ImuGravity(Tower):
    """Transformer over patches of all sensors, each seen in two views.

    The view ``mounted`` reads the axes as they are. The view ``gravity`` filters the three axes alike and keeps the
    length of what comes out and its component along gravity: it does not change when the sensor is turned (Villar et
    al., NeurIPS 2021: such lengths and products are all that an invariant function needs). Gravity itself (direction
    and magnitude, the mean acceleration) and the spectra of accelerometer and gyroscope are tokens of their own. All
    tokens of all sensors that are present attend to each other; what is absent is masked. A token is the sum of its
    content and of learned embeddings of its kind and of the place on the body; a place that was not in pretraining
    is "elsewhere", which training meets as well, since a share of the windows is not told their places.

    The features are, averaged over the sensors: mean and standard deviation over time of each layer of both stems
    and of the last tokens, and the posture and spectra that went in. Early layers and spectra serve motions that
    pretraining did not see; the view by gravity serves sensors that are worn differently.
    """

    def __init__(self, config: ImuGravityConfig):
        super().__init__()
        if len(config.stem_channels) != len(config.stem_kernels):
            raise ValueError(f"{len(config.stem_channels)} stem_channels but {len(config.stem_kernels)} stem_kernels")
        if config.d_model % config.num_heads or config.d_model % 2:
            raise ValueError(f"d_model is {config.d_model}, expected an even multiple of num_heads {config.num_heads}")
        width, last = config.d_model, config.stem_channels[-1]
        self.mounted = MountedStem(config.stem_channels, config.stem_kernels)
        self.gravity = GravityStem(config.num_filters, config.stem_channels, config.stem_kernels)
        self.patches = nn.ModuleList(
            nn.Conv1d(last, width, config.patch_kernel, stride=2, padding=config.patch_kernel // 2) for _ in range(2)
        )
        self.patch_norms = nn.ModuleList(GlobalBatchNorm(width) for _ in range(2))
        self.posture = nn.Linear(POSTURE_DIM, width)
        self.spectra = nn.ModuleList(nn.Linear(SPECTRUM_DIM, width) for _ in range(2))
        self.kind_embeddings = nn.Parameter(0.02 * torch.randn(len(KINDS), width))
        self.place_embeddings = nn.Parameter(torch.zeros(1 + len(config.places), width))
        self.layers = nn.ModuleList(_Layer(width, config.num_heads, config.ffn_dim) for _ in range(config.num_layers))
        self.unnamed_share = config.unnamed_share
        self.places = list(config.places)
        self._worn: list[int] = []
        stems = 2 * (2 * sum(config.stem_channels))
        self.token_dim = 2 * width
        self.feature_dim = stems + 2 * 2 * width + width + POSTURE_DIM + 2 * SPECTRUM_DIM

    def wear(self, positions: list[str]) -> None:
        """Say where the sensors of the windows to come are worn; a place without an embedding is elsewhere."""
        known = {place: i for i, place in enumerate(self.places, start=1)}
        self._worn = [known.get(place_of(position), 0) for position in positions]

    def stack(self) -> list[nn.Module]:
        """Return the transformer's layers."""
        return list(self.layers)

    def encode(self, imu: Tensor, valid: Tensor) -> Encoding:
        """Map imu [B, T, P, 6] (SI) and valid [B, T, P, 2] to features; the tokens are the patches of both views.

        Raises:
            ValueError: P is not the number of positions that :meth:`wear` was told.
        """
        batch, _, sensors, _ = imu.shape
        x = fold_sensors(normalise_si(imu, valid)).unflatten(-1, (2, 3))  # [B P, T, 2, 3]
        there = fold_sensors(valid)  # [B P, T, 2]
        up, mean_acc = _gravity(x, there)
        posture = torch.cat([up, mean_acc.norm(dim=-1, keepdim=True), _moments(x, up, there)], dim=-1)
        spectra = [_spectrum(x[:, :, i], up, there[:, :, i]) for i in range(2)]

        weight = there.any(-1)[:, None].to(x.dtype)  # [B P, 1, T]
        pooled, tokens, token_valid = [], [], []
        for i, (sequence, shorter, statistics) in enumerate(
            (self.mounted(x, there, weight), self.gravity(x, up, weight))
        ):
            pooled += statistics
            tokens.append(torch.relu(self.patch_norms[i](self.patches[i](sequence))).transpose(1, 2))
            token_valid.append(_halve(shorter)[:, 0] > 0)
        num_patches = tokens[0].shape[1]
        time = _time_code(num_patches, self.kind_embeddings)
        tokens = [part + kind + time for part, kind in zip(tokens, self.kind_embeddings[:2], strict=True)]
        singles = [self.posture(posture), *(embed(s) for embed, s in zip(self.spectra, spectra, strict=True))]
        tokens += [(part + kind)[:, None] for part, kind in zip(singles, self.kind_embeddings[2:], strict=True)]
        has = there.any(1)  # [B P, 2]
        token_valid += [has[:, :1], has[:, :1], has[:, 1:]]

        z = torch.cat(tokens, dim=1).unflatten(0, (batch, sensors))  # [B, P, M, d]
        z = (z + self._place(batch, sensors, z)[:, :, None]).flatten(1, 2)
        key_valid = torch.cat(token_valid, dim=1).unflatten(0, (batch, sensors)).flatten(1)  # [B, P M]
        # Where nothing at all is valid, attention over nothing would give NaN; what it gives is not used.
        mask = (key_valid | ~key_valid.any(1, keepdim=True))[:, None, None]
        for layer in self.layers:
            z = layer(z, mask)
        z = z.unflatten(1, (sensors, -1)).flatten(0, 1)  # [B P, M, d]
        for view in range(2):
            part = slice(view * num_patches, (view + 1) * num_patches)
            pooled += _mean_and_deviation(z[:, part].transpose(1, 2), token_valid[view][:, None].to(z.dtype))
        pooled += [z[:, 2 * num_patches] * has[:, :1], posture, *spectra]
        features = pool_sensors(unfold_sensors(torch.cat(pooled, dim=1), sensors), valid)
        both = torch.cat([z[:, :num_patches], z[:, num_patches : 2 * num_patches]], dim=-1)
        return Encoding(features, pool_sensors(unfold_sensors(both, sensors), valid), valid_parts(valid, num_patches))

    def _place(self, batch: int, sensors: int, like: Tensor) -> Tensor:
        """Return the embeddings of the places, [B, P, d]."""
        if not self._worn:
            return self.place_embeddings[0].expand(batch, sensors, -1)
        if len(self._worn) != sensors:
            raise ValueError(f"the tower was told {len(self._worn)} positions, the window has {sensors} sensors")
        named = self.place_embeddings[torch.tensor(self._worn, device=like.device)].expand(batch, -1, -1)
        if not self.training:
            return named
        unnamed = torch.rand(batch, 1, 1, device=like.device) < self.unnamed_share
        return torch.where(unnamed, self.place_embeddings[0], named)


class MountedStem(nn.Module):
    """Strided convolutions over the axes as they are, with what is valid as two more channels."""

    def __init__(self, channels: list[int], kernels: list[int]):
        super().__init__()
        self.convolutions, self.norms = _convolutions([8, *channels], kernels)

    def forward(self, x: Tensor, valid: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Map x [N, T, 2, 3], valid [N, T, 2] and weight [N, 1, T] to (sequence, its weight, statistics [N, C])."""
        x = torch.cat([x.flatten(2), valid.to(x.dtype)], dim=-1).transpose(1, 2)
        return _run(x, weight, self.convolutions, self.norms)


class GravityStem(nn.Module):
    """The same that does not change when a sensor is turned.

    A filter over time mixes accelerometer and gyroscope, alike on all axes, so that its output is a vector that turns
    with the sensor; its length and its component along gravity do not turn.
    """

    def __init__(self, num_filters: int, channels: list[int], kernels: list[int]):
        super().__init__()
        self.filters = nn.Conv1d(2, num_filters, kernels[0], stride=2, padding=kernels[0] // 2, bias=False)
        self.mix = nn.Conv1d(2 * num_filters, channels[0], 1, bias=False)
        self.mix_norm = GlobalBatchNorm(channels[0])
        self.convolutions, self.norms = _convolutions(channels, kernels[1:])

    def forward(self, x: Tensor, up: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Map x [N, T, 2, 3], up [N, 3] and weight [N, 1, T] to (sequence, its weight, statistics [N, C])."""
        vectors = self.filters(x.permute(0, 3, 2, 1).flatten(0, 1)).unflatten(0, (-1, 3))  # [N, 3, K, T/2]
        length = (vectors.square().sum(1) + 1e-4).sqrt()  # the root's slope at zero would be infinite
        along = (vectors * up[:, :, None, None]).sum(1)
        weight = _halve(weight)
        y = torch.relu(self.mix_norm(self.mix(torch.cat([length, along], dim=1))))
        sequence, shorter, statistics = _run(y, weight, self.convolutions, self.norms)
        return sequence, shorter, _mean_and_deviation(y, weight) + statistics


class _Layer(nn.Module):
    """A transformer layer, normalised first (Xiong et al., ICML 2020)."""

    def __init__(self, width: int, num_heads: int, ffn_dim: int):
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.ffn_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ffn = nn.Sequential(nn.Linear(width, ffn_dim), nn.GELU(), nn.Linear(ffn_dim, width))

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        """Map z [B, L, d] to the same shape; mask bool [B, 1, 1, L] is True for keys that may be attended to."""
        qkv = self.qkv(self.attention_norm(z)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        z = z + self.out(attended.transpose(1, 2).flatten(2))
        return z + self.ffn(self.ffn_norm(z))


def place_of(position: str) -> str:
    """Return the place on the body that a position names, without its side: ``wrist`` of ``right_wrist``."""
    return "_".join(word for word in position.lower().split("_") if word not in ("left", "right"))


def _convolutions(widths: list[int], kernels: list[int]) -> tuple[nn.ModuleList, nn.ModuleList]:
    convolutions = nn.ModuleList(
        nn.Conv1d(a, b, k, stride=2, padding=k // 2, bias=False)
        for (a, b), k in zip(itertools.pairwise(widths), kernels, strict=True)
    )
    return convolutions, nn.ModuleList(GlobalBatchNorm(width) for width in widths[1:])


def _run(
    x: Tensor, weight: Tensor, convolutions: nn.ModuleList, norms: nn.ModuleList
) -> tuple[Tensor, Tensor, list[Tensor]]:
    statistics = []
    for convolution, norm in zip(convolutions, norms, strict=True):
        x, weight = torch.relu(norm(convolution(x))), _halve(weight)
        statistics += _mean_and_deviation(x, weight)
    return x, weight, statistics


def _halve(weight: Tensor) -> Tensor:
    return F.max_pool1d(weight, 2, ceil_mode=True)


def _mean_and_deviation(x: Tensor, weight: Tensor) -> list[Tensor]:
    """Return mean and standard deviation [N, C] of x [N, C, T] over the instants that weight [N, 1, T] keeps."""
    total = weight.sum(-1).clamp(min=1)
    mean = (x * weight).sum(-1) / total
    variance = ((x - mean[..., None]).square() * weight).sum(-1) / total
    kept = weight.amax(-1)
    return [mean, (variance + 1e-6).sqrt() * kept]


POSTURE_DIM = 4 + 2 * 2 * 5


def _gravity(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the direction of gravity (a unit vector, shorter near free fall) and the mean acceleration, [N, 3]."""
    weight = valid[:, :, :1].to(x.dtype)
    mean = (x[:, :, 0] * weight).sum(1) / weight.sum(1).clamp(min=1)
    return mean / (mean.square().sum(-1, keepdim=True) + 1e-4).sqrt(), mean


def _channels(x: Tensor, up: Tensor) -> Tensor:
    """Return the three axes, the length and the component along gravity of x [N, T, 3]: [N, T, 5]."""
    length = (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    return torch.cat([x, length, (x * up[:, None]).sum(-1, keepdim=True)], dim=-1)


def _moments(x: Tensor, up: Tensor, valid: Tensor) -> Tensor:
    """Return mean and standard deviation of the channels of both sensors, [N, 20]."""
    parts = []
    for i in range(2):
        channels = _channels(x[:, :, i], up).transpose(1, 2)
        parts += _mean_and_deviation(channels, valid[:, None, :, i].to(x.dtype))
    return torch.cat(parts, dim=-1)


NUM_BANDS = len(BANDS) - 1
SPECTRUM_DIM = 6 * NUM_BANDS


def _spectrum(x: Tensor, up: Tensor, valid: Tensor) -> Tensor:
    """Return the logarithm of the power in each band of x [N, T, 3], valid [N, T]: [N, 6 bands], 0 if never valid.

    Of the three axes, the length, the component along gravity, and of all axes together, which no rotation changes.
    """
    weight = valid[..., None].to(x.dtype)
    channels = _channels(x, up)
    mean = (channels * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
    basis, bands = _fourier(x.shape[1], x)
    amplitudes = torch.einsum("fkt,ntc->nfkc", basis, (channels - mean) * weight)
    power = torch.einsum("bk,nkc->nbc", bands, amplitudes.square().sum(1))
    power = torch.cat([power, power[..., :3].sum(-1, keepdim=True)], dim=-1)
    # Shifted and scaled to order one; the floor lies below the noise of a phone's sensors.
    logarithm = ((power + 1e-7).log() + 8) / 4
    return logarithm.flatten(1) * valid.any(1)[:, None]


def _fourier(steps: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines under a Hann window [2, K, T], and what averages frequencies over bands [bands, K].

    Plain products instead of an FFT: windows are short, and any exporter knows them.
    """
    time = torch.arange(steps, device=like.device, dtype=like.dtype)
    numbers = torch.arange(steps // 2 + 1, device=like.device, dtype=like.dtype)
    window = torch.sin(math.pi * (time + 0.5) / steps).square()
    angle = 2 * math.pi * numbers[:, None] * time / steps
    basis = torch.stack([angle.cos(), angle.sin()]) * window / window.square().sum().sqrt()
    edges = torch.tensor(BANDS, device=like.device, dtype=like.dtype)[:, None]
    inside = ((numbers / steps >= edges[:-1]) & (numbers / steps < edges[1:])).to(like.dtype)
    return basis, inside / inside.sum(1, keepdim=True).clamp(min=1)


def _time_code(num_patches: int, like: Tensor) -> Tensor:
    """Return sines and cosines of the patch's number (Vaswani et al., NeurIPS 2017), [L, d]."""
    half = like.shape[-1] // 2
    rate = torch.exp(torch.arange(half, device=like.device) * (-math.log(1000.0) / half))
    angle = torch.arange(num_patches, device=like.device)[:, None] * rate
    return 0.1 * torch.cat([angle.sin(), angle.cos()], dim=-1).to(like.dtype)
