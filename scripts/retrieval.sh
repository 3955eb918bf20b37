#!/usr/bin/env bash
# Retrieval across modalities: zero-shot by cosine of pooled codes and of continuous semantics, in all directions that
# data and checkpoint allow; with --gallery audio the paper's Table 5, a head that is fitted with one modality and
# queried with the other. Flags go to `python -m cmg.downstream.retrieval`:
#
#   ./scripts/retrieval.sh --checkpoint checkpoint/run --data data/clips.h5
#   ./scripts/retrieval.sh --checkpoint checkpoint/vt --data data/clips.h5 --gallery audio
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

exec "$python" -m cmg.downstream.retrieval \
  --protocol strict --seed 0 "$@"
