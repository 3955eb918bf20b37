#!/usr/bin/env bash
# The paper's Table 4, AVS-S4, on the digit clips (rows: scripts/tables/table4.toml), or on data of your own. Takes the
# flags and environment variables of scripts/digits.sh and writes checkpoint/table4. For AVSBench itself, copy the table
# file and name the backbones that your features are of, and `--preset paper`.
#
#   ./scripts/table4.sh FOLDER
#   ./scripts/table4.sh --data data/mine.h5 --out checkpoint/mine --set ave=data/ave.h5 \
#       ave_lists=data/AVE s4=data/Single-source
set -euo pipefail

TABLES=table4 exec "$(dirname "${BASH_SOURCE[0]}")/digits.sh" "$@"
