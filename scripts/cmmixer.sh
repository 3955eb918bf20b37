#!/usr/bin/env bash
# Pretrains CMMixer on raw clips (small frames and log-mel pictures), shows what it separates, and validates it: a
# classifier trained on the tokens of one modality is tested on another. As it stands it needs no data and takes a few
# minutes on two CPU cores; a second call continues an interrupted run. Flags go to `python -m cmg.pretrain` and win:
#
#   ./scripts/cmmixer.sh
#   ./scripts/cmmixer.sh --mix pixel --out checkpoint/pixel
#   NPROC=8 ./scripts/cmmixer.sh --data data/raw.h5 --preset base --out checkpoint/cmmixer_base
#
# Raw clips of one's own: scripts/extract.sh --video-backbone frames --audio-backbone melimage --side 224 …
set -euo pipefail
CMG_EXTRAS=vit
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

out="$root/checkpoint/cmmixer"
data=synthetic
device=auto
what=(--data synthetic --method cmmixer --seed 0)
recipe=(--preset small --epochs 30 --batch-size 50 --lr 1e-3 --mix image --checkpoint-epochs 10)

own_flag() {
  case "$1" in --preset) recipe=() ;; esac  # another preset brings its own
}
read_flags "$@"
if "$help"; then exec "$python" -m cmg.pretrain --method cmmixer "$@"; fi

launcher

run "${launch[@]}" cmg.pretrain --out "$out" --resume auto "${what[@]}" ${recipe[@]+"${recipe[@]}"} "$@"

if [[ "$data" == synthetic ]]; then
  run "$python" -m cmg.downstream.separation --checkpoint "$out" --data synthetic --device "$device"
  exec "$python" -m cmg.downstream.ave --checkpoint "$out" --data synthetic --protocol strict --device "$device"
else
  echo "next: python -m cmg.downstream.separation --checkpoint $(printf %q "$out") --data OTHER_CLIPS.h5" >&2
fi
