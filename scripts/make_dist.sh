#!/usr/bin/env bash
# make_dist.sh BUILD OUT: packs a release build into OUT/msa-VERSION-linux-ARCH.tar.gz and runs what it packed
# (a golden case, on the CPU) where there is nothing but a glibc: an empty root with the C library's own files.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:?usage: make_dist.sh BUILD OUT}
out=${2:?usage: make_dist.sh BUILD OUT}
mkdir -p "$out"
(cd "$build" && cpack --config CPackConfig.cmake -B "$PWD/dist" >dist.log 2>&1) || {
  cat "$build/dist.log" >&2
  exit 1
}
tarball=$(ls -t "$build"/dist/msa-*.tar.gz | head -n 1)
mv "$tarball" "$out/"
tarball=$out/$(basename "$tarball")

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
tar -C "$root" -xf "$tarball"
mv "$root"/msa-* "$root/msa"
# With an RPATH of its own everything but these must be found in the bundle.
missing=$(LD_LIBRARY_PATH= ldd "$root/msa/bin/msa" | awk '$3 ~ /^\// { print $3 }' |
  grep -v -e "^$root/msa/" -e '/lib\(c\|m\|dl\|rt\|pthread\|resolv\)\.so' || true)
if [ -n "$missing" ]; then
  echo "these libraries would be taken from the machine instead of the bundle:" $missing >&2
  exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
  mkdir -p "$root/lib64" "$root/tmp"
  cp -L /lib64/ld-linux-x86-64.so.2 "$root/lib64/"
  mkdir -p "$root/lib/x86_64-linux-gnu"
  for name in libc.so.6 libm.so.6 libdl.so.2 librt.so.1 libpthread.so.0 libresolv.so.2; do
    cp -L "/lib/x86_64-linux-gnu/$name" "$root/lib/x86_64-linux-gnu/"
  done
  mkdir "$root/golden"
  cp -r tests/golden/qwen3_small tests/golden/tokenizers "$root/golden/"
  # There is no /proc there to find the origin by.
  LD_ORIGIN_PATH=/msa/bin chroot "$root" /msa/bin/msa verify /golden/qwen3_small | tail -n 1
fi
echo "made $tarball ($(du -h "$tarball" | cut -f1))"
