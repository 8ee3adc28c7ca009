"""What the video transformers share: how pictures enter them, and which patches are dropped in training."""

from __future__ import annotations

import torch
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the RGB channels on a scale of 0 to 1: what VideoMAE, V-JEPA 2 and DINOv2 were trained with."""
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIGLIP_MEAN, SIGLIP_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
MOST_DROPPED = 0.75


def standardised(frames: Tensor, frame_valid: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Map frames uint8 [B, F, H, W, 3] to float32 [B, F, 3, H, W]; frames that are not valid get the mean colour."""
    x = (frames.float() / 255 - frames.new_tensor(mean, dtype=torch.float32)) / frames.new_tensor(
        std, dtype=torch.float32
    )
    return (x * frame_valid[:, :, None, None, None]).permute(0, 1, 4, 2, 3)


def check_patch_dropout(share: float) -> None:
    """Refuse a share of patches that is not in [0, 0.75], the range of FLIP, with a ValueError."""
    if not 0 <= share <= MOST_DROPPED:
        raise ValueError(f"patch_dropout {share:g} must lie between 0 and {MOST_DROPPED}")


def kept_patches(shape: tuple[int, ...], num_patches: int, share: float, device: torch.device) -> Tensor:
    """Choose patches at random, as many for every frame or tube (Li et al., FLIP, CVPR 2023, section 3).

    Args:
        shape: of what has ``num_patches`` patches each: (clips, tubes), or (pictures,).
        num_patches: N.
        share: of the patches that are dropped.
        device: of the result.

    Returns:
        int64 [*shape, K], increasing, with K = round((1 - share) N), at least 1.
    """
    keep = max(1, round((1 - share) * num_patches))
    return torch.rand(*shape, num_patches, device=device).topk(keep, dim=-1).indices.sort(dim=-1).values
