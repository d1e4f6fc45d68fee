#!/bin/bash
#SBATCH --job-name=eanet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4          # one process for each GPU; 1 on nodes without
#SBATCH --gpus-per-node=4            # all of them visible to every task, of which each takes its own
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@180            # to every process, before the time is over: the state is saved
#SBATCH --requeue                    # also where a node fails
#SBATCH --open-mode=append
#SBATCH --output=eanet_%j.txt

# sbatch docs/cluster/slurm.sh --config=configs/eanet_cifar100.py --workdir=/shared/runs/eanet
#
# From the root of the checkout, with the environment in .venv. The workdir, and the data, must be on a
# file system that all nodes share. What has been stopped goes on, up to MOST times.

MOST=20

srun --kill-on-bad-exit=0 .venv/bin/python main.py --distributed "$@"
code=$?

# 4: a process has ended, hangs or has not come; 134, 137: it was aborted or killed; 143: the time was
# over. What would fail again ends all of them with 2 or 3.
case $code in
    4 | 134 | 137 | 143)
        if [ "${SLURM_RESTART_COUNT:-0}" -lt "$MOST" ]; then
            scontrol requeue "$SLURM_JOB_ID"
        fi
        ;;
esac
exit "$code"
