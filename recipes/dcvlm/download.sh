#!/usr/bin/env bash
# DataComp-VLM: the pool of a scale, whole.
# Downloads what recipe and paper need, below $DATA (default: data), and prints the variables to export.
#   DRY_RUN=1 bash recipes/dcvlm/download.sh     says what would be fetched, and how large it is
set -euo pipefail
data=${DATA:-data}

fetch() { # SIZE REPOSITORY FOLDER [PATTERN...]
  local size=$1 repository=$2 folder=$data/$3; shift 3
  echo "$size  $repository $* -> $folder"
  [ -n "${DRY_RUN:-}" ] && return
  local include=(); for pattern in "$@"; do include+=(--include "$pattern"); done
  hf download --repo-type dataset "$repository" "${include[@]}" --local-dir "$folder"
}

# SCALE=small is the baseline's (6.25B tokens), xlarge the balanced one's (200B; its 10,752 shards have 25.7 TB).
case ${SCALE:-small} in
  small) fetch "about 1 TB" mlfoundations/dcvlm_pool_small small ;;   # chosen: 384 shards as large as the xlarge ones
  xlarge) fetch "25.7 TB" mlfoundations/dcvlm_pool_xlarge xlarge ;;
  *) echo "SCALE is small or xlarge" >&2; exit 2 ;;
esac
echo "export DCVLM_POOL=$data/${SCALE:-small}"
