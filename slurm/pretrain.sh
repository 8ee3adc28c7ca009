#!/bin/bash
# Pretraining on any number of nodes:
#   sbatch --nodes=2 --gpus-per-node=4 --ntasks-per-node=4 [options] slurm/pretrain.sh CONFIG [key=value ...]
# One task is one rank (one GPU). The job is requeued after a warning, a lost rank and a lost node; see docs/cluster.md.
# IMUVID names the command where `imuvid` is not on the PATH.
#SBATCH --job-name=imuvid-pretrain
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
# To the ranks (not to this script), ahead of the time limit and, where the site is set up so, of preemption.
#SBATCH --signal=USR1@120

exec "${IMUVID:-imuvid}" pretrain --srun "$@"
