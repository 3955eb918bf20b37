#!/usr/bin/env bash
# AVE→AVVP: a probe that learned AVE's classes in one modality localises them on AVVP in the other. Flags go to
# `python -m cmg.downstream.ave_avvp`:
#
#   ./scripts/ave_avvp.sh --checkpoint checkpoint/run --data data/ave.h5 --annotations data/AVE \
#     --avvp-data data/avvp.h5 --avvp-annotations data/AVVP
#
# --classes FILE gives the classes that both sets share (a CSV: ave,avvp), --classes same goes by equal names.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

exec "$python" -m cmg.downstream.ave_avvp \
  --probe-epochs 50 --batch-size 80 --protocol strict --seed 0 "$@"
