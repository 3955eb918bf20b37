#!/usr/bin/env bash
# What a pretraining step costs on this machine, at the published sizes. Flags go to `python -m cmg.bench`:
#
#   ./scripts/bench.sh
#   ./scripts/bench.sh --modalities video audio --precision bf16 --batch-size 256
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

exec "$python" -m cmg.bench --preset paper --shapes paper --batch-size 80 "$@"
