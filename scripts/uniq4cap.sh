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

given=("$@")
out="" data=synthetic checkpoint="" device=auto rest=() videos=() caption=false
for ((i = 0; i < $#; i++)); do
  flag="${given[i]%%=*}"
  if [[ "${given[i]}" == *=* ]]; then value="${given[i]#*=}" step=0; else value="${given[i + 1]:-}" step=1; fi
  case "$flag" in
    --caption)
      caption=true
      while ((i + 1 < $#)) && [[ "${given[i + 1]}" != --* ]]; do videos+=("${given[++i]}"); done
      continue ;;
    --out) out="$value"; i=$((i + step)); continue ;;
    --checkpoint) checkpoint="$value"; i=$((i + step)); continue ;;
    --data) data="$value" ;;
    --device) device="$value" ;;
  esac
  rest+=("${given[i]}")
done

if "$caption"; then CMG_EXTRAS="extract"; fi
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
out="${out:-$root/checkpoint/uniq4cap}"

if "$caption"; then
  exec "$python" -m cmg.downstream.captioning --checkpoint "${checkpoint:-$out/captions}" \
    --videos "${videos[@]}" ${rest[@]+"${rest[@]}"}
fi

what=(--seed 0)
if [[ "$data" == synthetic ]]; then
  what+=(--data synthetic --synthetic-captions 4 --modalities video audio text --checkpoint-epochs 10)
fi
launcher

run "${launch[@]}" cmg.pretrain --method prealign --out "$out/aligned" --resume auto "${what[@]}" \
  ${rest[@]+"${rest[@]}"}
run "${launch[@]}" cmg.pretrain --method uniq4cap --out "$out/captions" --resume auto --init-from "$out/aligned" \
  "${what[@]}" ${rest[@]+"${rest[@]}"}
test="${TEST:-synthetic}"
if [[ "$data" != synthetic && "$test" == synthetic ]]; then
  echo "next: python -m cmg.downstream.captioning --checkpoint $(printf %q "$out/captions") --data TEST.h5" >&2
else
  exec "$python" -m cmg.downstream.captioning --checkpoint "$out/captions" --data "$test" --device "$device" \
    ${CAPTIONS:+--captions "$CAPTIONS"}
fi
