#!/usr/bin/env bash
# DataComp-1B: the list of its pictures, which its own tools fetch from the web.
# Downloads what recipe and paper need, below $DATA (default: data), and prints the variables to export.
#   DRY_RUN=1 bash recipes/datacomp-1b/download.sh     says what would be fetched, and how large it is
set -euo pipefail
data=${DATA:-data}

fetch() { # SIZE REPOSITORY FOLDER [PATTERN...]
  local size=$1 repository=$2 folder=$data/$3; shift 3
  echo "$size  $repository $* -> $folder"
  [ -n "${DRY_RUN:-}" ] && return
  local include=(); for pattern in "$@"; do include+=(--include "$pattern"); done
  hf download --repo-type dataset "$repository" "${include[@]}" --local-dir "$folder"
}

# The pictures of the whole CommonPool xlarge are about 450 TB, those of the list about 50 TB.
fetch "about 1 TB" mlfoundations/datacomp_1b datacomp-1b "**/*.parquet"
cat <<'EOF'
Fetch the pool with github.com/mlfoundations/datacomp (python download_upstream.py --scale datacomp_1b --data_dir pool),
the centroids of its image_based filter, and the npz features' l14_img as Parquet (uid, l14_img), then:
  export COMMONPOOL=pool CENTROIDS=centroids L14=features
EOF
