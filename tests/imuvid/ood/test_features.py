"""What the hand-made features say of signals that are known."""

from __future__ import annotations

import numpy as np

from imuvid.ood.features import BANDS_HZ, handmade_features

NUM_BANDS = len(BANDS_HZ) - 1


def one_window(freq_hz: float, rate_hz: float = 50.0) -> tuple[np.ndarray, np.ndarray]:
    t = np.arange(round(4 * rate_hz)) / rate_hz
    imu = np.zeros((1, len(t), 1, 6), np.float32)
    imu[0, :, 0, 0] = 3.0 + 2.0 * np.sin(2 * np.pi * freq_hz * t)
    return imu, np.ones((1, len(t), 1, 2), bool)


def test_moments_and_band_of_a_sine():
    for freq_hz, band in ((1.25, 1), (5.5, 7), (12.5, 10)):
        imu, valid = one_window(freq_hz)
        x_axis = handmade_features(imu, valid, 50.0).reshape(2, 4, 4 + NUM_BANDS)[0, 0]
        np.testing.assert_allclose(x_axis[:4], [3.0, np.sqrt(2), 1.0, 5.0], atol=0.05)
        assert x_axis[4:].argmax() == band


def test_absent_instants_do_not_count():
    imu, valid = one_window(2.25)
    reference = handmade_features(imu, valid, 50.0).reshape(2, 4, -1)[0]
    imu[:, 150:] = 1000.0
    valid[:, 150:] = False
    part = handmade_features(imu, valid, 50.0).reshape(2, 4, -1)[0]
    np.testing.assert_allclose(part[0, :4], reference[0, :4], atol=0.2)
    assert part[0, 4:].argmax() == reference[0, 4:].argmax()


def test_an_absent_sensor_gives_zeros():
    imu, valid = one_window(2.0)
    valid[..., 1] = False
    features = handmade_features(imu, valid, 50.0).reshape(2, -1)
    assert (features[1] == 0).all()
    assert np.isfinite(features).all()
    assert (features[0] != 0).any()
