#!/usr/bin/env bash
# The paper's Table 5, retrieval of a modality that was not pretrained, on the digit clips (rows:
# scripts/tables/table5.toml), or on feature files of your own: clips that hold video, audio and text, and, for a strict
# test, of which not all were pretrained on. Takes the flags and environment variables of scripts/digits.sh and writes
# checkpoint/table5.
#
#   ./scripts/table5.sh FOLDER
#   ./scripts/table5.sh --data data/mine.h5 --out checkpoint/mine --set clips=data/clips.h5
set -euo pipefail

TABLES=table5 exec "$(dirname "${BASH_SOURCE[0]}")/digits.sh" "$@"
