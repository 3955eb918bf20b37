#!/usr/bin/env bash
# Tests a network of scripts/avs_train.sh with the other modality's codes as its query, and draws masks over frames.
# Data, checkpoint and sizes are those it was trained with. Flags go to `python -m cmg.downstream.avs`:
#
#   ./scripts/avs_test.sh
#   ./scripts/avs_test.sh --out checkpoint/avs_t2a --protocol paper
set -euo pipefail
CMG_EXTRAS="avs"
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

exec "$python" -m cmg.downstream.avs --stage test --out "$root/checkpoint/avs_a2t" --protocol strict "$@"
