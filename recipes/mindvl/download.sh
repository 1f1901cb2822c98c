#!/usr/bin/env bash
# MindVL: public stand-ins for the kinds of data that the paper names.
# Downloads what recipe and paper need, below $DATA (default: data), and prints the variables to export.
#   DRY_RUN=1 bash recipes/mindvl/download.sh     says what would be fetched, and how large it is
set -euo pipefail
data=${DATA:-data}

fetch() { # SIZE REPOSITORY FOLDER [PATTERN...]
  local size=$1 repository=$2 folder=$data/$3; shift 3
  echo "$size  $repository $* -> $folder"
  [ -n "${DRY_RUN:-}" ] && return
  local include=(); for pattern in "$@"; do include+=(--include "$pattern"); done
  hf download --repo-type dataset "$repository" "${include[@]}" --local-dir "$folder"
}

# chosen: sizes from the pictures a sample and their bytes, to plan a disk with; none is stated for these parts alone.
fetch "about 11 TB" mvp-lab/LLaVA-OneVision-1.5-Mid-Training-85M captions "datacomp1b/**/*.parquet"
for part in docvqa infographic_vqa textvqa ocrvqa ai2d_merged scienceqa chartqa LLaVA_Instruct_150K text_openorca; do
  fetch "up to 0.1 TB" HuggingFaceM4/FineVision finevision "$part/*.parquet"
done
cat <<'EOF'
The recipe reads these by their names on the hub too, without this step. Beside them it needs OBELICS with its pictures
fetched (HuggingFaceM4/OBELICS lists URLs; img2dataset fetches them) and RefCOCO as LLaVA conversations:
  export OBELICS=obelics GROUNDING=refcoco
EOF
