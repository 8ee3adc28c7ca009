"""imuvid: contrastive pretraining of IMU encoders on paired video, and their out-of-distribution evaluation."""

__version__ = "0.1.0"
