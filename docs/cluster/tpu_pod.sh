#!/bin/bash
# docs/cluster/tpu_pod.sh NAME ZONE --config=configs/eanet_cifar100.py --workdir=/shared/runs/eanet
#
# Starts the same command on every host of a TPU pod slice that exists. On each there is the checkout,
# as ~/eanet with "jax[tpu]" in .venv, and a file system that all of them share, as Filestore.
set -eu

name=$1 zone=$2
shift 2
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="cd eanet && exec .venv/bin/python main.py --distributed $(printf '%q ' "$@")"
