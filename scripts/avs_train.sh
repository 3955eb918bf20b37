#!/usr/bin/env bash
# Trains a segmentation network on AVSBench S4 with the codes of one modality as its query (A2T: sound), at the
# published sizes; test it with scripts/avs_test.sh. Flags go to `python -m cmg.downstream.avs` and win over those here:
#
#   ./scripts/avs_train.sh --annotations data/Single-source --checkpoint checkpoint/run
#   ./scripts/avs_train.sh --annotations data/Single-source --checkpoint checkpoint/run --source text --target audio
#   ./scripts/avs_train.sh --annotations data/s4 --checkpoint checkpoint/run --preset small     a CPU, some minutes
set -euo pipefail
CMG_EXTRAS="avs"
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

source=audio target=text
recipe=(--backbone pvt_v2_b5 --backbone-weights imagenet --size 224 --channels 256 --fusion 0 1 2 3
        --epochs 15 --batch-size 4 --lr 1e-4 --w-matching 0 --workers 4)

own_flag() {
  case "$1" in
    --source) source="$2"; [[ "$2" == text ]] && target=audio || target=text ;;
    --query) [[ "$2" == codes ]] || target=audio ;;
    --preset) recipe=() ;;  # another preset brings its own
  esac
}
read_flags "$@"

exec "$python" -m cmg.downstream.avs --stage train --out "$root/checkpoint/avs_${source:0:1}2${target:0:1}" \
  --resume auto --source "$source" --target "$target" \
  --preset paper ${recipe[@]+"${recipe[@]}"} --seed 0 "$@"
