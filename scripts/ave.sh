#!/usr/bin/env bash
# Validates a run: trains a linear probe on the codes of one modality, tests it on those of the others, for every
# checkpoint of the run folder, and marks the best. Flags go to `python -m cmg.downstream.ave`:
#
#   ./scripts/ave.sh                                       the run of scripts/pretrain.sh
#   ./scripts/ave.sh --checkpoint checkpoint/av --data data/ave.h5 --annotations data/AVE --protocol paper
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

exec "$python" -m cmg.downstream.ave \
  --checkpoint "$root/checkpoint/synthetic" --data synthetic \
  --protocol strict --seed 0 "$@"
