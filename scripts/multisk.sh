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
help=false

given=("$@")
for ((i = 0; i < $#; i++)); do
  flag="${given[i]%%=*}"
  if [[ "${given[i]}" == *=* ]]; then value="${given[i]#*=}"; else value="${given[i + 1]:-}"; fi
  case "$flag" in
    --out) out="$value" ;;
    --data) data="$value" ;;
    --device) device="$value" ;;
    --config) what=() data="${data#synthetic}" ;;  # says all there is to say
    -h | --help) help=true ;;
  esac
done
if "$help"; then exec "$python" -m cmg.pretrain --method multisk "$@"; fi

launcher

run "${launch[@]}" cmg.pretrain --method multisk --out "$out" --resume auto ${what[@]+"${what[@]}"} "$@"

if [[ "$data" == synthetic ]]; then  # of the set that was pretrained on, the clips that were not
  clips="$("$python" -c 'import json, sys
from cmg.data.synthetic import synthetic_files, synthetic_spec
print(synthetic_files(spec=synthetic_spec(json.load(open(sys.argv[1]))["flags"])).ave)' "$out/args.json")"
  run "$python" -m cmg.downstream.retrieval --checkpoint "$out" --data "$clips" --protocol strict --device "$device"
  exec "$python" -m cmg.downstream.neighbourhood --checkpoint "$out" --data "$clips" --device "$device"
else
  echo "next: scripts/retrieval.sh --checkpoint $(printf %q "$out") --data CLIPS.h5" >&2
fi
