# Sourced by digits.sh and nature.sh: composed or given clips → media → features → tables.
#
# The script that sources this says in two functions what is particular to its clips:
#
#   features         renders the clips of $clips to $media and extracts their features (`extract`)
#   settings TABLE   sets the arrays `data` (what is pretrained on) and `set` (placeholders of the table file)

CMG_EXTRAS="dev"
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

# extract NAME FLAGS…: features of clips, once
extract() {
  local out="$media/$1.h5"; shift
  [[ -f "$out" ]] || run "$python" -m cmg.extract --video-backbone things --audio-backbone cepstra --text-backbone hash \
    "$@" --out "$out"
}

# tables NAME GIVEN FLAGS…: fills $TABLES. NAME is what `cmg.data.compose` and the default table are called, GIVEN a
# folder of clips if the environment names one.
tables() {
  local name="$1" given="$2" named="" table sources=() rest=(); shift 2
  local flags=(--seeds 0 1 2 --jobs "${JOBS:-$(nproc)}") fill=(run "$python" -m cmg.tables) made=""
  if [[ $# -gt 0 && "$1" != --* ]]; then
    given="$1" named=1; shift
  elif [[ " $* " == *" --data"[\ =]* || " $* " == *" --help "* ]]; then  # features of one's own
    for table in ${TABLES:-$name}; do
      "${fill[@]}" "$root/scripts/tables/$table.toml" "${flags[@]}" --out "$root/checkpoint/$table" "$@"
    done
    return
  fi
  while (($#)); do
    case "$1" in
      --fsdd | --mnist | --esc10 | --cifar10 | --mirror)
        (($# > 1)) || { echo "$name.sh: error: $1: expected a value" >&2; exit 2; }
        sources+=("$1" "$2"); shift ;;
      --fsdd=* | --mnist=* | --esc10=* | --cifar10=* | --mirror=*) sources+=("$1") ;;
      *) rest+=("$1") ;;
    esac
    shift
  done
  if [[ -n "$named" && ${#sources[@]} -gt 0 ]]; then
    echo "$name.sh: error: $given and ${sources[0]}; expected a folder of clips, or what to compose them of" >&2
    exit 2
  fi
  if [[ -n "$given" && ${#sources[@]} -eq 0 ]]; then
    [[ -f "$given/render_media.py" ]] || {
      echo "$name.sh: error: $given: no render_media.py; expected a folder of clips, or none to compose them" >&2
      exit 2
    }
    clips="$given" media="$root/data/$name"
    export PYTHONDONTWRITEBYTECODE=1  # the folder may be read-only
  else
    made="composed/" media="$root/data/composed/$name"
    clips="$media/clips"  # whose render_media.py is written last
    [[ -f "$clips/render_media.py" ]] || run "$python" -m cmg.data.compose "$name" --out "$clips" \
      --downloads "$root/data/downloads" "${sources[@]}"
  fi
  features
  for table in ${TABLES:-$name}; do
    local data set
    settings "$table"
    "${fill[@]}" "$root/scripts/tables/$table.toml" --data "${data[@]}" --set "${set[@]}" "${flags[@]}" \
      --out "$root/checkpoint/$made$table" "${rest[@]}"
  done
}
