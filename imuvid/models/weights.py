"""Pretrained weights of transformers models, from a local folder or the hub."""

from __future__ import annotations

from typing import Any

from imuvid.errors import UserError


def load_pretrained(model_class: Any, weights: str | None, architecture: Any, unused: tuple[str, ...] = ()) -> Any:
    """Return ``model_class(architecture)``, or the pretrained model ``weights`` in that architecture.

    Args:
        model_class: a transformers PreTrainedModel class.
        weights: local folder or hub name of safetensors weights; None gives a random initialisation.
        architecture: its transformers config.
        unused: beginnings of the names of parts that may be missing or of another shape, as they are not used.

    Raises:
        UserError: the weights cannot be had or do not fit the architecture; says what to download where.
    """
    if weights is None:
        return model_class(architecture)
    try:
        model, report = model_class.from_pretrained(
            weights, config=architecture, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except OSError as error:
        raise UserError(
            f"weights '{weights}' are neither a local folder with model.safetensors nor on the hub from here: download"
            f" them where there is a network ('hf download {weights} --local-dir DIR') and give weights=DIR"
        ) from error
    lacking = sorted(report["missing_keys"]) + sorted(str(key[0]) for key in report["mismatched_keys"])
    lacking = [name for name in lacking if not name.startswith(unused)]
    if lacking:
        raise UserError(
            f"weights '{weights}' do not fit the configured sizes: {len(lacking)} tensors are missing or of another"
            f" shape, first {lacking[0]}: set the sizes of the tower to those of its config.json"
        )
    return model
