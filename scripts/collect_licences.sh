#!/usr/bin/env bash
# collect_licences.sh DIR: puts the copyright file of every Debian package whose library lies in DIR/lib
# into DIR/licences. Called while a bundle is made.
set -euo pipefail
dir=${1:?usage: collect_licences.sh DIR}
mkdir -p "$dir/licences"
for library in "$dir"/lib/*; do
  package=$(dpkg -S "*/$(basename "$library")" 2>/dev/null | head -n 1 | cut -d: -f1) || true
  [ -n "$package" ] || continue  # CUDA's libraries: their licence is NVIDIA's, named in docs/operations.md
  cp -L "/usr/share/doc/$package/copyright" "$dir/licences/$package" 2>/dev/null || true
done
