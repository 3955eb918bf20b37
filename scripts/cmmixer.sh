#!/usr/bin/env bash
# CMMixer on raw clips (small frames and log-mel pictures): mixes, masks and takes apart again (OUT/mixed), shows what it
# separates, fine-tunes the encoder to find a clip's sound by its pictures (OUT/pairs), and measures both: retrieval, and
# a classifier that is trained on the vectors of one modality and tested on another. As it stands it needs no data and
# takes some minutes on two CPU cores; a second call continues an interrupted run. Flags go to `python -m cmg.pretrain
# --method cmmixer` and win; those that fine-tuning knows as well go there too, but for --epochs and --lr, and what PAIRS
# holds is for fine-tuning alone:
#
#   ./scripts/cmmixer.sh
#   ./scripts/cmmixer.sh --mix pixel --out checkpoint/pixel
#   NPROC=8 PAIRS="--epochs 50" ./scripts/cmmixer.sh --data data/raw.h5 --preset base --out checkpoint/cmmixer_base
#
# Raw clips of one's own: scripts/extract.sh --video-backbone frames --audio-backbone melimage --side 224 …
set -euo pipefail
CMG_EXTRAS=vit
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

out="$root/checkpoint/cmmixer"
data=synthetic
device=auto
what=(--data synthetic --seed 0)
mixing=(--preset small --epochs 40 --batch-size 50 --lr 3e-3 --warmup-steps 60 --checkpoint-epochs 40)
pairing=(--preset small --epochs 20 --batch-size 50 --lr 5e-4 --warmup-steps 20 --checkpoint-epochs 20)
plain=(--crop 1 --erase 0)  # where a disc is, is heard as its pitch: clips of the built-in set are not cropped

own_flag() {
  case "$1" in
    --preset) mixing=() pairing=() ;;  # another preset brings its own
    --data) plain=() ;;
  esac
}
read_flags "$@"
if "$help"; then exec "$python" -m cmg.pretrain --method cmmixer "$@"; fi

shared=() known=true  # of the flags, with their values, those that fine-tuning knows
for word in "$@"; do
  case "${word%%=*}" in
    --mix | --pixel-* | --alone | --mask-ratio | --decoder-* | --epochs | --lr) known=false ;;
    --*) known=true ;;
  esac
  if "$known"; then shared+=("$word"); fi
done

launcher

# each stage has a folder of its own in --out, which is said last and wins
run "${launch[@]}" cmg.pretrain --method cmmixer --resume auto "${what[@]}" ${mixing[@]+"${mixing[@]}"} \
  ${plain[@]+"${plain[@]}"} "$@" --out "$out/mixed"
run "${launch[@]}" cmg.pretrain --method cmmixer-pair --resume auto --init-from "$out/mixed/latest.pt" "${what[@]}" \
  ${pairing[@]+"${pairing[@]}"} ${plain[@]+"${plain[@]}"} ${shared[@]+"${shared[@]}"} ${PAIRS:-} --out "$out/pairs"

if [[ "$data" == synthetic ]]; then  # of the set that was pretrained on, the clips that were not
  how=(--data synthetic --device "$device")
  run "$python" -m cmg.downstream.separation --checkpoint "$out/mixed" "${how[@]}"
  for stage in mixed pairs; do
    run "$python" -m cmg.downstream.retrieval --checkpoint "$out/$stage/latest.pt" --protocol strict "${how[@]}"
    run "$python" -m cmg.downstream.ave --checkpoint "$out/$stage" --protocol strict "${how[@]}"
  done
else
  echo "next: python -m cmg.downstream.separation --checkpoint $(printf %q "$out/mixed") --data OTHER_CLIPS.h5" >&2
  echo "and:  scripts/retrieval.sh --checkpoint $(printf %q "$out/pairs") --data OTHER_CLIPS.h5" >&2
fi
