#!/usr/bin/env bash
# The paper's Fig. 3: transfer by the size of the codebook, on the digit clips (see scripts/digits.sh, whose flags and
# environment variables it takes), as a table and a line chart in checkpoint/fig3:
#
#   ./scripts/fig3.sh FOLDER
#   ./scripts/fig3.sh --data data/mine.h5 --out checkpoint/mine --set ave=data/ave.h5 \
#       ave_lists=data/AVE avvp=data/avvp.h5 avvp_lists=data/AVVP
set -euo pipefail

TABLES=fig3 exec "$(dirname "${BASH_SOURCE[0]}")/digits.sh" "$@"
