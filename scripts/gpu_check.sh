#!/usr/bin/env bash
# All evidence that needs a card, in under eight minutes: parity and golden curves on it, speed in every precision,
# an epoch over 40 000 clips, resume after a kill, two processes where there are two cards. Writes
# checkpoint/gpu_check/gpu_check.{json,md}; ends with status 2 where there is no card. Flags go to cmg.gpu_check:
#
#   ./scripts/gpu_check.sh
#   ./scripts/gpu_check.sh --device cpu --small        a rehearsal
set -euo pipefail
CMG_EXTRAS="dev"
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

exec "$python" -m cmg.gpu_check --out "$root/checkpoint/gpu_check" "$@"
