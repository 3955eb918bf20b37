#!/usr/bin/env bash
# UniQ4Cap: aligns sight, sound and captions, learns to write captions of clips, and measures them on clips apart. As it
# stands it needs no data: the built-in set with composed captions, some minutes on two CPU cores. A second call goes on
# with an interrupted run. Flags go to both stages, `python -m cmg.pretrain --method prealign` and `--method uniq4cap`;
# with --caption a checkpoint tells what is in media files:
#
#   ./scripts/uniq4cap.sh
#   ./scripts/uniq4cap.sh --data data/train.h5 --modalities video audio text --out checkpoint/captions
#   ./scripts/uniq4cap.sh --checkpoint checkpoint/captions --caption clip.mp4 another.mp4
#   TEST=data/test.h5 CAPTIONS=test.csv ./scripts/uniq4cap.sh --data data/train.h5 --out checkpoint/captions
set -euo pipefail

caption=false
if [[ " $* " == *" --caption "* ]]; then caption=true CMG_EXTRAS=extract; fi
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

out="$root/checkpoint/uniq4cap"
data=synthetic
device=auto
read_flags "$@"

if "$caption"; then
  words=()
  for word in "$@"; do
    if [[ "$word" == --caption ]]; then word=--videos; fi
    words+=("$word")
  done
  exec "$python" -m cmg.downstream.captioning --checkpoint "$out/captions" "${words[@]}"
fi
if "$help"; then exec "$python" -m cmg.pretrain --method uniq4cap "$@"; fi

what=(--seed 0)
if [[ "$data" == synthetic ]]; then
  what+=(--data synthetic --checkpoint-epochs 10)
fi
launcher

# each stage has a folder of its own in --out, which is said last and wins
run "${launch[@]}" cmg.pretrain --method prealign --resume auto "${what[@]}" "$@" --out "$out/aligned"
run "${launch[@]}" cmg.pretrain --method uniq4cap --resume auto --init-from "$out/aligned" "${what[@]}" "$@" \
  --out "$out/captions"
test="${TEST:-synthetic}"
if [[ "$data" != synthetic && "$test" == synthetic ]]; then
  echo "next: python -m cmg.downstream.captioning --checkpoint $(printf %q "$out/captions") --data TEST.h5" >&2
else
  exec "$python" -m cmg.downstream.captioning --checkpoint "$out/captions" --data "$test" --device "$device" \
    ${CAPTIONS:+--captions "$CAPTIONS"}
fi
