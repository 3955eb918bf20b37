#!/usr/bin/env bash
# All evidence that needs a card: parity and golden curves on it, speed in every precision, an epoch over 40 000 clips, a
# step of the other systems at their published sizes, clips a second of VGG-19 and VGGish, resume after a kill, two
# processes where there are two cards. Writes checkpoint/gpu_check/gpu_check.{json,md}; ends with status 2 where there
# is no card. Flags go to cmg.gpu_check, --parts names some of these:
#
#   ./scripts/gpu_check.sh
#   ./scripts/gpu_check.sh --device cpu --small        a rehearsal
set -euo pipefail
CMG_EXTRAS="dev"
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

exec "$python" -m cmg.gpu_check --out "$root/checkpoint/gpu_check" "$@"
