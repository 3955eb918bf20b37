#!/usr/bin/env bash
# Pretrains a shared codebook for video, audio and text, then validates it: a classifier trained on one modality is
# tested on another. As it stands it needs no data and takes a few minutes on two CPU cores; a second call continues
# an interrupted run, or validates a finished one again. Flags go to `python -m cmg.pretrain` and win over those here:
#
#   ./scripts/pretrain.sh
#   ./scripts/pretrain.sh --modalities video audio --seed 1 --out checkpoint/av
#   NPROC=4 ./scripts/pretrain.sh --data data/vggsound.h5 --preset paper --out checkpoint/vggsound
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

out="$root/checkpoint/synthetic"
data=synthetic
device=auto
what=(--data synthetic --seed 0)
preset=(--preset small --checkpoint-epochs 4)

own_flag() {
  case "$1" in
    --preset) preset=() ;;
    --method)  # one of one's own that is not joined with ours need not have this preset
      if [[ "$2" =~ \.py(:|$) && "$2" != *+* ]]; then preset=(); fi ;;
    --config) what=() preset=() data="${data#synthetic}" ;;  # says all there is to say
  esac
}
read_flags "$@"
if "$help"; then exec "$python" -m cmg.pretrain ${preset[@]+"${preset[@]}"} "$@"; fi  # with the defaults of what is run

launcher

run "${launch[@]}" cmg.pretrain \
  --out "$out" --resume auto ${what[@]+"${what[@]}"} ${preset[@]+"${preset[@]}"} "$@"

if [[ "$data" == synthetic ]]; then
  exec "$python" -m cmg.downstream.ave --checkpoint "$out" --data synthetic --protocol strict --seed 0 --device "$device"
else
  echo "next: scripts/ave.sh --checkpoint $(printf %q "$out") --data FEATURES.h5 --labels labels.csv" \
    "(or --annotations FOLDER, of AVE)" >&2
fi
