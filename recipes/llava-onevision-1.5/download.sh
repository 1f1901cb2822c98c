#!/usr/bin/env bash
# LLaVA-OneVision-1.5: alignment, mid-training and instruction data.
# Downloads what recipe and paper need, below $DATA (default: data), and prints the variables to export.
#   DRY_RUN=1 bash recipes/llava-onevision-1.5/download.sh     says what would be fetched, and how large it is
set -euo pipefail
data=${DATA:-data}

fetch() { # SIZE REPOSITORY FOLDER [PATTERN...]
  local size=$1 repository=$2 folder=$data/$3; shift 3
  echo "$size  $repository $* -> $folder"
  [ -n "${DRY_RUN:-}" ] && return
  local include=(); for pattern in "$@"; do include+=(--include "$pattern"); done
  hf download --repo-type dataset "$repository" "${include[@]}" --local-dir "$folder"
}

fetch "27 GB" liuhaotian/LLaVA-Pretrain llava-pretrain
fetch "46.7 TB" mvp-lab/LLaVA-OneVision-1.5-Mid-Training-85M mid "*/**/*.parquet"
fetch "a few TB" mvp-lab/LLaVA-OneVision-1.5-Instruct-Data instruct "**/*.parquet"
fetch "about 5 TB" HuggingFaceM4/FineVision finevision "*/*.parquet"
[ -n "${DRY_RUN:-}" ] || unzip -q -d "$data/llava-pretrain" "$data/llava-pretrain/images.zip"
echo "export LLAVA_PRETRAIN=$data/llava-pretrain"
echo "The recipe reads the others by their names on the hub; to read the copies, replace hf://datasets/… in it by $data/…"
