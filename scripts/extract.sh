#!/usr/bin/env bash
# Turns media files and captions into one feature file, with backbones that need no weights and no download. Flags go
# to `python -m cmg.extract`:
#
#   ./scripts/extract.sh --videos FOLDER --out data/mine.h5
#   ./scripts/extract.sh --videos FOLDER --captions captions.csv --modalities video audio text --out data/mine.h5
set -euo pipefail
CMG_EXTRAS="extract"
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

exec "$python" -m cmg.extract "$@"
