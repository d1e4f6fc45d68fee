#!/bin/bash
# docs/cluster/tpu_pod.sh NAME ZONE --config=configs/eanet_cifar100.py --workdir=/shared/runs/eanet
#
# Starts the same command on every host of a TPU pod slice that exists. On each there is the checkout,
# as ~/eanet with "jax[tpu]" in .venv, and a file system that all of them share, as Filestore. Where a
# process has ended, hangs or was killed, all start again; a slice that was taken away is not made anew.
set -eu

name=$1 zone=$2
shift 2
while true; do
    code=0
    gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
        --command="cd eanet && exec .venv/bin/python main.py --distributed $(printf '%q ' "$@")" || code=$?
    case $code in
        4 | 134 | 137) sleep 60 ;;
        *) exit "$code" ;;
    esac
done
