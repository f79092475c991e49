#!/bin/sh
# test_training.sh: the tests of training/, by the packages of `make training-venv` or those that python3
# has. Exit code 77, with the reason, where there are none.
cd "$(dirname "$0")/.." || exit 1
for python in .venv/training/bin/python .venv/bin/python python3; do
  if "$python" -c 'import torch, safetensors, tokenizers, yaml, gguf, matplotlib' 2>/dev/null; then
    exec "$python" -m unittest discover -s training/tests -t .
  fi
done
echo "skipped: no Python with training/requirements.txt; 'make training-venv' makes one"
exit 77
