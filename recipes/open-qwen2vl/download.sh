#!/usr/bin/env bash
# Open-Qwen2VL: CCS, and the part of DataComp-Medium that its filters keep.
# Downloads what recipe and paper need, below $DATA (default: data), and prints the variables to export.
#   DRY_RUN=1 bash recipes/open-qwen2vl/download.sh     says what would be fetched, and how large it is
set -euo pipefail
data=${DATA:-data}

fetch() { # SIZE REPOSITORY FOLDER [PATTERN...]
  local size=$1 repository=$2 folder=$data/$3; shift 3
  echo "$size  $repository $* -> $folder"
  [ -n "${DRY_RUN:-}" ] && return
  local include=(); for pattern in "$@"; do include+=(--include "$pattern"); done
  hf download --repo-type dataset "$repository" "${include[@]}" --local-dir "$folder"
}

# chosen: sizes by 35 kB a picture (DataComp-Medium's 4.5 TB over 128M); the repository holds 2.71 TB with OBELICS.
fetch "about 0.3 TB" weizhiwang/Open-Qwen2VL-Data open-qwen2vl "ccs_webdataset/*.tar"
fetch "about 0.7 TB" weizhiwang/Open-Qwen2VL-Data open-qwen2vl \
  "datacomp_medium_mlm_filter_su_85_union_dfn_webdataset/*.tar"
cat <<'EOF'
The second set is filtered already. For the filters themselves and the ablation, fetch DataComp-Medium with its own
downloader (github.com/mlfoundations/datacomp: python download_upstream.py --scale medium --data_dir pool; about 4.5 TB),
the DFN uids (apf1/datafilteringnetworks_2b, datacomp_medium_dfn_20m_inds.npy) and MLM-Filter's scores, then:
  export DATACOMP_MEDIUM=pool MLM_FILTER=scores DFN_UIDS=datacomp_medium_dfn_20m_inds.npy LAION_CLIP=laion
EOF
