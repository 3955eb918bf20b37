#!/usr/bin/env bash
# The paper's Fig. 4, each modality's share in the use of every code, and how match rate, overlap and perplexity went over
# training. Flags go to `python -m cmg.downstream.codebook`:
#
#   ./scripts/fig4.sh --checkpoint checkpoint/run --data data/ave.h5
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

exec "$python" -m cmg.downstream.codebook "$@"
