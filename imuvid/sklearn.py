"""An encoder as a scikit-learn transformer: windows in, features out, in pipelines and cross-validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from imuvid.models.encoder import load_encoder
from imuvid.ood.embedding import choose_device, condition_recording, features_of


class ImuFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Features of a frozen, pretrained encoder; ``fit`` learns nothing, it reads the encoder.

    Windows are float [windows, T, 6] (one sensor) or [windows, T, sensors, 6]: acceleration with gravity in m/s^2, then
    angular velocity in rad/s, of the encoder's rate and length; NaN where nothing was measured. A table
    [windows, T * 6] holds the first form row by row. Windows are conditioned as the encoder's were; where that is by
    the statistics of a recording, the windows of one call are taken for one.

    Args:
        encoder: folder, as for :func:`imuvid.load_encoder`.
        batch_size: windows that go through it at once.
        device: auto (a GPU where there is one), cpu or cuda.
    """

    def __init__(self, encoder: str | Path = "encoder", batch_size: int = 256, device: str = "auto"):
        self.encoder = encoder
        self.batch_size = batch_size
        self.device = device

    def fit(self, X: Any, y: Any = None) -> ImuFeatures:
        """Read the encoder.

        Raises:
            ValueError: the windows have another shape than it takes, or hold infinity.
            UserError: there is no such encoder.
        """
        encoder = load_encoder(self.encoder)
        self.num_samples_ = round(encoder.config.window_s * encoder.config.imu_rate_hz)
        self._windows(X, reset=True)
        self.encoder_ = encoder
        self._n_features_out = encoder.feature_dim
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the features float32 [windows, D].

        Raises:
            ValueError: the windows have another shape than those of ``fit``, or hold infinity.
            NotFittedError: ``fit`` was not called.
        """
        check_is_fitted(self, "encoder_")
        windows = self._windows(X, reset=False)
        valid = np.isfinite(windows.reshape(*windows.shape[:-1], 2, 3)).all(axis=-1)
        imu = np.where(np.repeat(valid, 3, axis=-1), windows, 0).astype(np.float32)
        imu = condition_recording(imu, valid, self.encoder_.config.condition)
        return features_of(self.encoder_, imu, valid, self.batch_size, choose_device(self.device))

    def _windows(self, X: Any, reset: bool) -> np.ndarray:
        """Return X as [windows, T, sensors, 6]."""
        X = validate_data(
            self, X, reset=reset, dtype=[np.float64, np.float32], allow_nd=True, ensure_all_finite="allow-nan"
        )
        if X.ndim == 2 and X.shape[1] == self.num_samples_ * 6:
            X = X.reshape(len(X), self.num_samples_, 6)
        if X.ndim == 3:
            X = X[:, :, None]
        if X.ndim != 4 or X.shape[1] != self.num_samples_ or X.shape[3] != 6:
            raise ValueError(
                f"X has shape {X.shape}, expected windows [N, {self.num_samples_}, 6],"
                f" [N, {self.num_samples_}, sensors, 6] or [N, {self.num_samples_ * 6}]"
            )
        return X

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []
        tags.requires_fit = True
        return tags
