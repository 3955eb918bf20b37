#!/usr/bin/env bash
# Passes the tests, and sets the environment up first if there is none. Flags go to pytest:
#
#   ./scripts/test.sh                 all tests; those that need the digit clips skip unless CMG_DIGITS names their folder
#   ./scripts/test.sh -m "not slow"   the fast ones
#   ./scripts/test.sh -k ave          those of one topic
set -euo pipefail
CMG_EXTRAS="dev"
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

if (($#)); then exec "$python" -m pytest "$root/tests" -q "$@"; fi
exec "$python" "$root/tests/side_by_side.py"  # the fast and the slow ones, each in a process of its own
