#!/usr/bin/env bash
# install_packages.sh [--bench]: installs the Debian packages that building and testing need, with
# --bench also what benchmarks compare with. Does nothing when all are there; otherwise needs root or
# sudo.
set -euo pipefail

packages=(
  build-essential cmake ninja-build ccache mold pkg-config git ca-certificates
  libabsl-dev libcli11-dev libspdlog-dev nlohmann-json3-dev libzstd-dev libxxhash-dev
  libssl-dev libgrpc++-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev
  librocksdb-dev libisal-dev prometheus-cpp-dev libcpp-httplib-dev
  libhwy-dev libopenblas-dev libdnnl-dev libpcre2-dev libicu-dev
  libgtest-dev libgmock-dev
  python3 python3-venv openssl
)

if [ "${1:-}" = --bench ]; then packages+=(redis-server libhiredis-dev zstd); fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -eq 0 ]; then
  as_root=()
elif command -v sudo >/dev/null; then
  as_root=(sudo)
else
  echo "These packages are missing, and there is neither root nor sudo to install them:" >&2
  echo "  apt-get install ${missing[*]}" >&2
  exit 1
fi

echo "installing: ${missing[*]}"
"${as_root[@]}" apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -q -y --no-install-recommends "${missing[@]}"
