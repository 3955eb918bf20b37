#!/usr/bin/env bash
# AVVP: a probe of one modality's codes localises events in the other's, second by second. Flags go to
# `python -m cmg.downstream.avvp`; features of the annotated clips come from scripts/extract.sh:
#
#   ./scripts/avvp.sh --checkpoint checkpoint/run --data data/avvp.h5 --annotations data/AVVP
#   ./scripts/avvp.sh --checkpoint checkpoint/run --data data/avvp.h5 --annotations data/AVVP --protocol paper
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

exec "$python" -m cmg.downstream.avvp \
  --probe-epochs 50 --batch-size 80 --protocol strict --seed 0 "$@"
