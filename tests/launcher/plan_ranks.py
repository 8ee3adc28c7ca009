"""What ranks of DeepSpeed really hold and send: ``plan_ranks.py WORLD`` prints it by ZeRO stage as JSON, rank 0's.

Bytes that are sent are those of the loopback device of the network namespace that it is started in.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

BATCH, STEPS, STATED = 8, 3, {"window_s": 1.0, "imu_rate_hz": 50.0, "frames": 4, "frame_px": 16}
WORDS = ["model.imu_tower.cnn.channels=[64,256,512]", "model.imu_tower.cnn.kernel_sizes=[5,5,5]"]
WORDS += ["model.video_tower.cnn.channels=[8]", "model.video_tower.cnn.time_strides=[1]", "data.num_workers=0"]


def sent() -> int:
    """Bytes that went over the loopback device."""
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split()[9])


def held() -> int:
    """Bytes of all tensors of this process, by the storages that they share."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor):
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
            if thing.is_leaf and thing.grad is not None:
                storages[thing.grad.untyped_storage().data_ptr()] = thing.grad.untyped_storage().nbytes()
    storages.pop(0, None)
    return sum(storages.values())


def step(engine, batch) -> int:
    """Do a step; return what is held before the update."""
    loss, _ = engine.forward(batch)
    engine.backward(loss)
    del loss
    peak = held()
    engine.engine.step()
    return peak


def rank() -> None:
    import torch.distributed as dist

    from imuvid import config as configs
    from imuvid.models.two_tower import TwoTower
    from imuvid.training.config import PretrainConfig
    from imuvid.training.engine import Engine, start_process_group
    from launcher.plan import PlanConfig
    from launcher.plan_model import example_batch

    cpu = torch.device("cpu")
    start_process_group(cpu, 60)
    world = dist.get_world_size()
    found = {}
    for stage in (0, 1, 2, 3):
        config = configs.load(PretrainConfig, None, ["name=x", "data.path=x", f"engine.zero_stage={stage}", *WORDS])
        batch = example_batch(PlanConfig(**STATED), BATCH // world)
        before = held()
        engine = Engine(TwoTower(config.model), config.engine, config.optimizer, cpu, BATCH // world)
        step(engine, batch)
        dist.barrier()
        time.sleep(0.2)
        start = sent()
        for _ in range(STEPS):
            peak = step(engine, batch)
        dist.barrier()
        time.sleep(0.2)
        traffic = (sent() - start) / STEPS / world
        found[stage] = {"state": held() - before, "peak": peak - before, "sent": traffic}
        del engine
    if dist.get_rank() == 0:
        print(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)


def main(world: int) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", __spec__.name], env={**os.environ, **common, "RANK": str(r), "LOCAL_RANK": str(r)}
        )
        for r in range(world)
    ]
    sys.exit(max(process.wait() for process in ranks))


if __name__ == "__main__":
    rank() if "RANK" in os.environ else main(int(sys.argv[1]))
