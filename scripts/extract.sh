#!/usr/bin/env bash
# Turns media files and captions into one feature file, by default with backbones that need no weights and no download;
# data/README.md lists the others. Flags go to `python -m cmg.extract`:
#
#   ./scripts/extract.sh --videos FOLDER --out data/mine.h5
#   ./scripts/extract.sh --videos FOLDER --captions captions.csv --modalities video audio text --out data/mine.h5
#   ./scripts/extract.sh --videos FOLDER --video-backbone vgg19 --video-weights vgg19-dcbb9e9d.pth --modalities video \
#       --device cuda --out data/mine.h5
set -euo pipefail
CMG_EXTRAS="extract"
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

exec "$python" -m cmg.extract "$@"
