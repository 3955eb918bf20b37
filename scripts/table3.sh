#!/usr/bin/env bash
# The paper's Table 3 on the digit clips (rows: scripts/tables/table3.toml), or on feature files of your own. Takes the
# flags and environment variables of scripts/digits.sh and writes checkpoint/table3.
#
#   ./scripts/table3.sh FOLDER
#   ./scripts/table3.sh --data data/mine.h5 --out checkpoint/mine --set ave=data/ave.h5 \
#       ave_lists=data/AVE avvp=data/avvp.h5 avvp_lists=data/AVVP
set -euo pipefail

TABLES=table3 exec "$(dirname "${BASH_SOURCE[0]}")/digits.sh" "$@"
