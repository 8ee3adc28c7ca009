"""The scikit-learn transformer: scikit-learn's own checks, and what it makes of windows."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from imuvid.imu.condition import ConditionConfig, condition
from imuvid.models.encoder import Encoder, EncoderConfig, load_encoder, save_encoder
from imuvid.models.imu_cnn import ImuCnnConfig
from imuvid.models.towers import ImuTowerConfig
from imuvid.sklearn import ImuFeatures

SAMPLES = 20


def save(folder: Path, condition: ConditionConfig | None = None) -> str:
    torch.manual_seed(0)
    tower = ImuTowerConfig(cnn=ImuCnnConfig(channels=[4, 6], kernel_sizes=[5, 3]))
    config = EncoderConfig(tower, imu_rate_hz=10.0, window_s=2.0, condition=condition or ConditionConfig())
    save_encoder(folder, config, Encoder(config).tower.state_dict())
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save(tmp_path_factory.mktemp("encoder"))


def windows(count: int = 6, sensors: int | None = None) -> np.ndarray:
    shape = (count, SAMPLES, 6) if sensors is None else (count, SAMPLES, sensors, 6)
    return 3 * np.random.default_rng(0).normal(size=shape)


class AnyTable(ImuFeatures):
    """scikit-learn's checks feed tables of any number of columns, a window has T * 6: this spreads a row over one."""

    def _windows(self, X, reset):
        from sklearn.utils.validation import validate_data

        X = validate_data(self, X, reset=reset, dtype=np.float64, ensure_all_finite="allow-nan")
        return np.resize(X.T, (SAMPLES * 6, len(X))).T.reshape(len(X), SAMPLES, 1, 6)


CHECKS = sorted({check.func.__name__ for _, check in estimator_checks_generator(AnyTable("none"))})


# All of them apply; that of other array libraries skips itself unless SCIPY_ARRAY_API is set.
@pytest.mark.parametrize("name", CHECKS)
def test_scikit_learns_checks(name, folder):
    for estimator, check in estimator_checks_generator(AnyTable(folder)):
        if check.func.__name__ == name:
            check(estimator)


def test_it_gives_the_features_of_the_encoder(folder):
    encoder, X = load_encoder(folder), windows(sensors=2)
    X[1, :, :, 3:] = np.nan
    X[2, 5:9, 0, 1] = np.nan  # one axis is enough for a sample not to be there
    valid = np.stack([np.isfinite(X[..., :3]).all(-1), np.isfinite(X[..., 3:]).all(-1)], axis=-1)
    imu = np.where(np.repeat(valid, 3, -1), X, 0).astype(np.float32)
    with torch.no_grad():
        expected = encoder(torch.from_numpy(imu), torch.from_numpy(valid)).numpy()
    found = ImuFeatures(folder, batch_size=4).fit_transform(X)
    assert found.dtype == np.float32
    assert np.allclose(found, expected, atol=1e-5)
    names = ImuFeatures(folder).fit(X).get_feature_names_out()
    assert list(names[:2]) == ["imufeatures0", "imufeatures1"]
    assert len(names) == found.shape[1]


def test_one_sensor_may_be_given_without_its_axis_or_as_a_table(folder):
    X = windows()
    found = ImuFeatures(folder).fit_transform(X)
    assert np.array_equal(found, ImuFeatures(folder).fit_transform(X[:, :, None]))
    assert np.array_equal(found, ImuFeatures(folder).fit_transform(X.reshape(len(X), -1)))
    assert np.array_equal(found, pickle.loads(pickle.dumps(ImuFeatures(folder).fit(X))).transform(X))


def test_windows_are_conditioned_as_in_the_pretraining(tmp_path):
    config = ConditionConfig(5, "window")
    X = windows().astype(np.float32)
    valid = np.ones((*X.shape[:2], 1, 2), bool)
    seen = np.stack([condition(x[:, None], v, config) for x, v in zip(X, valid, strict=True)])
    path = save(tmp_path, config)
    with torch.no_grad():
        expected = load_encoder(path)(torch.from_numpy(seen), torch.from_numpy(valid)).numpy()
    assert np.allclose(ImuFeatures(path).fit_transform(X), expected, atol=1e-5)


def test_it_works_in_a_pipeline(folder):
    X, y = windows(40), np.arange(40) % 2
    X[y == 1] *= 4
    pipeline = make_pipeline(ImuFeatures(folder), StandardScaler(), LogisticRegression())
    assert cross_val_score(pipeline, X, y, cv=4).mean() > 0.9


@pytest.mark.parametrize("shape", [(3, SAMPLES - 1, 6), (3, SAMPLES, 5), (3, SAMPLES, 1, 6, 1), (3, 6 * SAMPLES + 1)])
def test_windows_of_another_shape_are_refused(folder, shape):
    with pytest.raises(ValueError, match=r"expected windows \[N, 20, 6\]"):
        ImuFeatures(folder).fit(np.zeros(shape))
