#!/usr/bin/env bash
# make_training_venv.sh [FOLDER]: Python packages of training/ in a virtual environment (default
# .venv/training). Where CUDA 13 is installed, torch takes its libraries from there (some 3 GB less to
# download). Does nothing when they are there.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv/training}
python=${PYTHON:-python3}
has() { "$venv/bin/python" -c 'import torch, numpy, safetensors, tokenizers, yaml, gguf, matplotlib' 2>/dev/null; }
if has; then exit 0; fi

"$python" -m venv --clear "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet install "$@"; }
system_libraries=$(ldconfig -p 2>/dev/null || true)
cuda13=yes
for library in libcudart.so.13 libcublas.so.13 libcudnn.so.9 libnccl.so.2; do
  [[ $system_libraries == *"$library "* ]] || cuda13=
done
if [ -n "$cuda13" ]; then
  pip --no-deps "$(grep '^torch==' training/requirements.txt)" nvidia-cusparselt-cu13 nvidia-nvshmem-cu13 nvidia-cufile
  pip sympy networkx jinja2 filelock typing_extensions fsspec setuptools
  grep -v '^torch' training/requirements.txt >"$venv/requirements.txt"
  pip -r "$venv/requirements.txt"
else
  pip -r training/requirements.txt
fi
has || { echo "make_training_venv: torch cannot be imported: $("$venv/bin/python" -c 'import torch' 2>&1 | tail -n 1)" >&2; exit 1; }
