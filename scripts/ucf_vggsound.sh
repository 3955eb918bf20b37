#!/usr/bin/env bash
# UCF101 (video) ↔ VGGSound (audio): a clip probe of one set's modality is tested on the other set's. Flags go to
# `python -m cmg.downstream.ucf_vggsound`; --annotations is the folder of the four lists that pair the two sets:
#
#   ./scripts/ucf_vggsound.sh --checkpoint checkpoint/run --annotations data/lists \
#     --video-data data/ucf101.h5 --audio-data data/vggsound.h5
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

exec "$python" -m cmg.downstream.ucf_vggsound \
  --probe-epochs 30 --batch-size 80 --protocol strict --seed 0 "$@"
