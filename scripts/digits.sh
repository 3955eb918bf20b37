#!/usr/bin/env bash
# The README's tables: digit clips as .mp4 → features → pretraining, several recipes and three seeds → downstream tasks.
#
#   ./scripts/digits.sh                                fetches FSDD and MNIST (data/README.md) and composes the clips
#   ./scripts/digits.sh --fsdd FOLDER --mnist FOLDER   the same from copies at hand
#   ./scripts/digits.sh FOLDER                         clips at hand, with render_media.py; or set CMG_DIGITS
#   ./scripts/digits.sh FOLDER --seeds 0 --rows "OneCode AVT"
#   TABLES="digits pair" ./scripts/digits.sh FOLDER    several tables of scripts/tables/, one after another
#   ./scripts/digits.sh --data data/mine.h5 --out checkpoint/mine --set ave=data/ave.h5 …
#                                                      no digit clips: everything from feature files of your own
#
#   digits     OneCode, Uni-Code and one that aligns nothing, on AVE, AVVP, AVE→AVVP and retrieval, and OneCode without
#              one of its parts at a time
#   paper      Uni-Code without one of its parts at a time, at the length that it has in the table above
#   followups  the works that followed Uni-Code, at equal steps and trials (docs/followups.md)
#   pair       OneCode, Uni-Code and one that aligns nothing, between two data sets that share only their classes, in
#              the form of UCF101 ↔ VGGSound (see digit_pair.py); pretrained on clips of other speakers
#   multisk    structure preservation on retrieval, among heard and among other speakers
#
# table1.sh … table5.sh and fig3.sh are this script with a table of the paper's.
#
# Features and runs of composed clips lie in data/composed/digits and checkpoint/composed, those of a FOLDER in
# data/digits and checkpoint. Further flags go to `python -m cmg.tables`. Every step that is done is not done again; an
# interrupted one continues.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/clips.sh"

features() {
  run "$python" "$clips/render_media.py" "$media" --kinds pretrain ave avvp s4
  run "$python" "$root/scripts/digit_pair.py" "$clips" "$media"
  # AVE's test split: 600 new clips, whose images and recordings no recipe was chosen by; clusters.csv is written last
  [[ -f "$media/new/ann/clusters.csv" ]] || run "$python" "$root/scripts/digit_ave.py" "$clips" "$media/new"
  run "$python" "$media/new/render_media.py" "$media/new" --kinds ave
  run "$python" "$root/scripts/digit_retrieval.py" "$clips" "$media/retrieval"
  run "$python" "$media/retrieval/render_media.py" "$media/retrieval" --kinds pretrain

  local text=(--modalities video audio text --captions "$media/annotations/pretrain_captions.csv")
  extract pretrain --videos "$media/videos" --select "pre_*" "${text[@]}"
  extract other_speakers --videos "$media/pair/other_speakers.txt" "${text[@]}"
  extract heard_train --videos "$media/pair/heard_train.txt" "${text[@]}"
  extract heard_test --videos "$media/pair/heard_test.txt" "${text[@]}"
  extract ave --videos "$media/new/videos" --select "ave_*"
  extract avvp --videos "$media/videos" --select "avvp_val_*" "avvp_test_*"
  extract retrieval --videos "$media/retrieval/videos" --modalities video audio text \
    --captions "$media/retrieval/captions.csv"
  extract pair_video --videos "$media/pair/videos" --select "v_*" --modalities video
  extract pair_audio --videos "$media/pair/videos" --select "a_*" --modalities audio
}

settings() {
  case "$1" in
    pair | table5) data=("$media/other_speakers.h5") ;;
    multisk) data=("$media/heard_train.h5") ;;
    *) data=("$media/pretrain.h5") ;;
  esac
  set=(ave="$media/ave.h5" ave_lists="$media/new/ann" avvp="$media/avvp.h5" avvp_lists="$media/annotations"
    pair_video="$media/pair_video.h5" pair_audio="$media/pair_audio.h5" lists="$media/pair"
    heard="$media/heard_test.h5" clips="$media/retrieval.h5" groups="$media/retrieval/groups.csv" s4="$media/s4")
}

tables digits "${CMG_DIGITS:-}" "$@"
