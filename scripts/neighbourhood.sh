#!/usr/bin/env bash
# Whether a model keeps the neighbourhoods that clips have in their features: nearest clips in common, and the rank
# correlation of similarities, per modality. Flags go to `python -m cmg.downstream.neighbourhood`:
#
#   ./scripts/neighbourhood.sh --checkpoint checkpoint/run --data data/clips.h5
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

exec "$python" -m cmg.downstream.neighbourhood "$@"
