# Sourced by every script: finds the checkout and a Python that can run it, and sets one up if there is none.
#
#   $CMG_PYTHON, if set, is used as it is;
#   else the active environment's python, or python3, if it already has everything, at the versions that setup.py needs;
#   else .venv in the checkout, made here on the first run (or again when setup.py or requirements.txt change).
#
# CMG_EXTRAS="dev extract" names the extras of setup.py that the script needs on top.
# Afterwards: $root is the checkout, $python the interpreter, PYTHONPATH holds code/, and `run` runs a command.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PYTHONPATH="$root/code${PYTHONPATH:+:$PYTHONPATH}"

# Runs a command where more is to follow, as `exec` does where nothing is: `kill` of the script reaches the command, and
# its end is the script's.
run() {
  "$@" &
  local child=$! status=0
  trap 'trap - HUP INT TERM USR1; kill -TERM "$child" 2>/dev/null || true; wait "$child"; exit' HUP INT TERM USR1
  wait "$child" || status=$?
  trap - HUP INT TERM USR1
  return "$status"
}

env_say() { echo "env: $*" >&2; }
env_fail() { echo "env: error: $*" >&2; exit 1; }

# Prints, one requirement a line, the tested set ("all"): requirements.txt, and the extras of setup.py; or what the
# interpreter $1 lacks of the least that setup.py asks for ("missing"). Looks at installed metadata only, for importing
# torch to learn its version takes seconds.
env_requirements() {
  "$1" - "$root/setup.py" "$2" ${CMG_EXTRAS:-} <<'PY'
import sys
if sys.version_info < (3, 11):
    sys.exit("python>=3.11")
import ast, pathlib, re
from importlib.metadata import PackageNotFoundError, version

with open(sys.argv[1], encoding="utf-8") as file:
    nodes = [node for node in ast.parse(file.read()).body if isinstance(node, ast.Assign)]
literals = {node.targets[0].id: ast.literal_eval(node.value) for node in nodes}
tested = pathlib.Path(sys.argv[1]).with_name("requirements.txt").read_text(encoding="utf-8").splitlines()
wanted = [one for one in tested if one and one[0] != "#"] if sys.argv[2] == "all" else list(literals["REQUIRED"])
for extra in sys.argv[3:]:
    wanted += [one for one in literals["EXTRAS"][extra] if one not in wanted]

def numbers(text):
    return tuple(int(n) for n in re.findall(r"\d+", text.split("+")[0])[:3])

def met(requirement):
    name, relation, bound = re.fullmatch(r"([\w.-]+)(==|>=)([\d.]+?)(?:\.\*)?", requirement).groups()
    try:
        found = numbers(version(name))
    except PackageNotFoundError:
        return False
    bound = numbers(bound)
    return found >= bound if relation == ">=" else found[: len(bound)] == bound

print("\n".join(one for one in wanted if sys.argv[2] == "all" or not met(one)))
PY
}

# Is everything there? An interpreter that is too old, or does not start, counts as no.
env_complete() { local lack; lack="$(env_requirements "$1" missing 2>/dev/null)" && [[ -z "$lack" ]]; }

env_modern() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# A stamp per extra says that .venv holds what these two files asked for. It is written last, so that an interrupted
# installation is simply taken up again.
env_digest() { cat "$root/requirements.txt" "$root/setup.py" | cksum; }
env_stamped() {
  local part
  for part in base ${CMG_EXTRAS:-}; do
    [[ "$(cat "$root/.venv/cmg-stamp-$part" 2>/dev/null)" == "$(env_digest)" ]] || return 1
  done
}

env_install() {
  local venv="$root/.venv" maker="" candidate part
  for candidate in python3 python3.13 python3.12 python3.11; do
    if env_modern "$candidate"; then maker="$candidate"; break; fi
  done
  [[ -n "$maker" ]] || env_fail "needs Python 3.11 or newer, found $(python3 --version 2>&1 || true); set CMG_PYTHON"
  env_say "setting up $venv once (downloads about 3 GB, takes minutes) …"
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    "$maker" -m venv "$venv" >/dev/null 2>&1 \
      || env_fail "'$maker -m venv $venv' failed: install the venv module (Debian: python3-venv) or remove $venv"
  fi
  env_modern "$venv/bin/python" || env_fail "$venv holds an old or broken Python: remove that folder and run again"
  env_requirements "$venv/bin/python" all >"$venv/cmg-requirements.txt"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
    -r "$venv/cmg-requirements.txt" >"$venv/cmg-pip.log" 2>&1 \
    || env_fail "pip could not install the requirements (is there a network?): $(grep -i error "$venv/cmg-pip.log" | tail -n 1) (all of it: $venv/cmg-pip.log)"
  for part in base ${CMG_EXTRAS:-}; do env_digest >"$venv/cmg-stamp-$part"; done
}

if [[ -n "${CMG_PYTHON:-}" ]]; then
  python="$(command -v "$CMG_PYTHON")" || env_fail "CMG_PYTHON is '$CMG_PYTHON', which is no command"
  env_complete "$python" || env_say "warning: $python (CMG_PYTHON) lacks $(env_requirements "$python" missing 2>&1 | tr '\n' ' ')"
else
  python=""
  for candidate in ${VIRTUAL_ENV:+python} ${CONDA_PREFIX:+python} python3; do
    if env_complete "$candidate"; then python="$(command -v "$candidate")"; break; fi
  done
  if [[ -z "$python" ]]; then
    env_stamped || env_install
    python="$root/.venv/bin/python"
  fi
fi
env_say "using $python"

# read_flags "$@": what the flags that a script itself needs are given as, in `out`, `data`, `device` and `help`, which
# keep their values where they are not given. Of every flag, its name and value go to `own_flag`, where a script has one.
help=false
read_flags() {
  local given=("$@") i flag value
  for ((i = 0; i < $#; i++)); do
    flag="${given[i]%%=*}"
    if [[ "${given[i]}" == *=* ]]; then value="${given[i]#*=}"; else value="${given[i + 1]:-}"; fi
    case "$flag" in
      --out) out="$value" ;;
      --data) data="$value" ;;
      --device) device="$value" ;;
      -h | --help) help=true ;;
    esac
    if declare -F own_flag >/dev/null; then own_flag "$flag" "$value"; fi
  done
}

# launcher: how to start a module of cmg in NPROC processes, as the array `launch`.
launcher() {
  [[ "${NPROC:-1}" =~ ^[1-9][0-9]{0,2}$ ]] || {
    echo "${0##*/}: error: NPROC=$NPROC: expected a number of processes, 1 to 999" >&2
    exit 2
  }
  launch=("$python" -m)
  if ((${NPROC:-1} > 1)); then launch+=(cmg.launch "$NPROC"); fi
}
