#!/usr/bin/env bash
# Real sounds of the world and photos: clips as .mp4 → features → pretraining, several recipes and three seeds → AVE's
# and AVVP's tasks. Transfer is far from its ceiling on these clips (data/README.md says what is in them).
#
#   ./scripts/nature.sh                                  fetches ESC-10 and CIFAR-10 and composes the clips
#   ./scripts/nature.sh --esc10 FOLDER --cifar10 FOLDER  the same from copies at hand
#   ./scripts/nature.sh FOLDER                           clips at hand, with render_media.py; or set CMG_NATURE
#   ./scripts/nature.sh --data data/mine.h5 --set ave=data/ave.h5 …    features of your own
#
# Features and runs lie in data/composed/nature and checkpoint/composed, those of a FOLDER in data/nature and checkpoint.
# Further flags go to `python -m cmg.tables`. Every step that is done is not done again; an interrupted one continues.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/clips.sh"

features() {
  run "$python" "$clips/render_media.py" "$media" --kinds pretrain ave avvp
  extract pretrain --videos "$media/videos" --select "pre_*" --modalities video audio text \
    --captions "$media/annotations/pretrain_captions.csv"
  extract ave --videos "$media/videos" --select "ave_*"
  extract avvp --videos "$media/videos" --select "avvp_val_*" "avvp_test_*"
}

settings() {
  data=("$media/pretrain.h5")
  set=(ave="$media/ave.h5" ave_lists="$media/annotations" avvp="$media/avvp.h5" avvp_lists="$media/annotations")
}

tables nature "${CMG_NATURE:-}" "$@"
