#!/bin/sh
# check_format.sh: names the C++ and CUDA files that clang-format 14 would change; exit code 77 where it
# is not installed. 'clang-format-14 -i FILES' mends them.
cd "$(dirname "$0")/.." || exit 1
if ! command -v clang-format-14 >/dev/null || ! git rev-parse >/dev/null 2>&1; then
  echo "skipped: it wants clang-format-14 (Debian: clang-format-14) and a git checkout"
  exit 77
fi
git ls-files -z '*.h' '*.cc' '*.cu' '*.cuh' | xargs -0 -n 40 -P 2 clang-format-14 --dry-run --Werror
