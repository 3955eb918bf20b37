#!/usr/bin/env bash
# The README's table: digit clips as .mp4 → features → pretraining, several recipes and three seeds → AVE, strict.
#
#   ./scripts/digits.sh FOLDER           the folder that holds render_media.py; or set CMG_DIGITS
#   ./scripts/digits.sh FOLDER --seeds 0 --rows "recommended AVT"
#
# Further flags go to `python -m cmg.tables`. Every step that is done is not done again; an interrupted one continues.
set -euo pipefail
CMG_EXTRAS="dev"
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

if [[ $# -gt 0 && "$1" != --* ]]; then CMG_DIGITS="$1"; shift; fi
[[ -n "${CMG_DIGITS:-}" && -f "$CMG_DIGITS/render_media.py" ]] || {
  echo "digits.sh: error: expected the folder of digit clips (with render_media.py) as first argument or in CMG_DIGITS" >&2
  exit 2
}
media="$root/data/digits"

PYTHONDONTWRITEBYTECODE=1 "$python" "$CMG_DIGITS/render_media.py" "$media" --kinds pretrain ave
for part in pretrain ave; do
  [[ -f "$media/$part.h5" ]] && continue
  modalities=(video audio)
  if [[ $part == pretrain ]]; then
    modalities+=(text --captions "$media/annotations/pretrain_captions.csv")
  fi
  "$python" -m cmg.extract --videos "$media/videos" --select "${part:0:3}_*" --modalities "${modalities[@]}" \
    --video-backbone pixels --audio-backbone logmel --text-backbone hash --out "$media/$part.h5"
done

exec "$python" -m cmg.tables "$root/scripts/tables/digits.txt" \
  --data "$media/pretrain.h5" --eval-data "$media/ave.h5" --annotations "$media/annotations" \
  --seeds 0 1 2 --jobs "${JOBS:-$(nproc)}" --out "$root/checkpoint/digits" "$@"
