#!/usr/bin/env bash
# Pretrains MultiSK on video, audio and text, then retrieves clips across modalities and looks at whether they keep
# their neighbours. As it stands it needs no data and takes some minutes on two CPU cores; a second call continues an
# interrupted run, or evaluates a finished one again. Flags go to `python -m cmg.pretrain` and win over those here:
#
#   ./scripts/multisk.sh
#   ./scripts/multisk.sh --assignment top-r --out checkpoint/top_r
#   NPROC=4 ./scripts/multisk.sh --data data/howto100m.h5 --preset released --precision bf16 --out checkpoint/released
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

out="$root/checkpoint/multisk"
data=synthetic
device=auto
what=(--data synthetic --seed 0)

own_flag() {
  case "$1" in --config) what=() data="${data#synthetic}" ;; esac  # says all there is to say
}
read_flags "$@"
if "$help"; then exec "$python" -m cmg.pretrain --method multisk "$@"; fi

launcher

run "${launch[@]}" cmg.pretrain --method multisk --out "$out" --resume auto ${what[@]+"${what[@]}"} "$@"

if [[ "$data" == synthetic ]]; then  # of the set that was pretrained on, the clips that were not
  run "$python" -m cmg.downstream.retrieval --checkpoint "$out" --data synthetic --protocol strict --device "$device"
  exec "$python" -m cmg.downstream.neighbourhood --checkpoint "$out" --data synthetic --device "$device"
else
  echo "next: scripts/retrieval.sh --checkpoint $(printf %q "$out") --data CLIPS.h5" >&2
fi
