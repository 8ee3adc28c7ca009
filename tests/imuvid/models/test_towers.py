"""What building a tower costs those who build another."""

from __future__ import annotations

import subprocess
import sys


def test_towers_that_are_not_built_are_not_paid_for():
    """Their libraries take seconds of processor time to import, in every rank."""
    code = (
        "import sys; from imuvid.models.towers import ImuTowerConfig, build_imu_tower;"
        "import imuvid.training.loop; build_imu_tower(ImuTowerConfig(kind='gravity'));"
        "print({'transformers', 'scipy.signal', 'scipy.stats', 'pandas', 'sklearn', 'peft'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "set()"
