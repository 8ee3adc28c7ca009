"""Metadata of the package; the tools' settings are in pyproject.toml, the versions known to work in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "imuvid/__init__.py").read_text()).group(1)

ONNX = ["onnx>=1.20", "onnxscript>=0.6", "onnxruntime>=1.23"]
LORA = ["peft>=0.18"]
SWEEP = ["optuna>=4"]

setup(
    name="imuvid",
    version=VERSION,
    description="Contrastive IMU-video pretraining at cluster scale, and out-of-distribution evaluation of the encoder",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["imuvid*", "shards*", "launcher*"]),
    package_data={
        "imuvid": ["*.md"],
        "imuvid.ood": ["*.html"],
        "shards": ["*.html", "*.js"],
        "launcher.sweep": ["*.html"],
    },
    install_requires=[
        "torch>=2.4",
        "deepspeed>=0.16",
        "webdataset>=1.0",
        "decord>=0.6; platform_system=='Linux' and platform_machine=='x86_64'",  # elsewhere frames.backend=pyav
        "av>=14",
        "simplejpeg>=1.7",
        "transformers>=5.20",
        "safetensors>=0.4",
        "omegaconf>=2.3",
        "tensorboard>=2.15",
        "numpy>=1.26",
        "scipy>=1.11",
        "pyarrow>=15",
        "scikit-learn>=1.4",
        "matplotlib>=3.8",
        "jinja2>=3.1",
        "fsspec>=2024.2",
        "ray[tune]>=2.40",
        "typer>=0.12",
        "rich>=13",
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "hypothesis>=6",
            *ONNX,
            *LORA,
            *SWEEP,
            "ruff>=0.6",
            "mypy>=1.10",
            "py-gpmf-parser>=0.1.1; python_version<'3.13'",
            "imageio-ffmpeg>=0.6",
            "s3fs>=2024.2",
            "moto[s3]>=5",
            "flask>=3",
            "flask-cors>=4",
        ],
        "s3": ["s3fs>=2024.2"],
        "aria": ["projectaria-tools>=2.3"],
        "onnx": ONNX,
        "lora": LORA,
        "sweep": SWEEP,
        "bench": ["psutil>=5"],  # the peers have environments of their own: python -m benchmarks.stream --setup
        "docs": ["mkdocs-material>=9", "mkdocstrings[python]>=1"],
    },
    entry_points={"console_scripts": ["imuvid = launcher.cli:main"]},
)
