#!/usr/bin/env bash
# What a pretraining step costs on this machine, at the published sizes: AVT, then AV. Writes checkpoint/bench/*.json
# and a roofline picture beside each. Flags go to `python -m cmg.bench`:
#
#   ./scripts/bench.sh
#   ./scripts/bench.sh --precision bf16 --batch-size 80 256
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

mkdir -p "$root/checkpoint/bench"
for modalities in "video audio text" "video audio"; do
  # shellcheck disable=SC2086  # a list of names
  run "$python" -m cmg.bench --preset paper --shapes paper --batch-size 80 --modalities $modalities \
    --out "$root/checkpoint/bench/$(tr -d ' ' <<<"$modalities").json" "$@"
done
