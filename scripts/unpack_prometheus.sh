#!/usr/bin/env bash
# unpack_prometheus.sh DIR: puts Debian's Prometheus under DIR, for the test that has it ask a server. It
# is not installed: that would start it. Does nothing when it is there, or installed.
set -euo pipefail
dir=${1:?usage: unpack_prometheus.sh DIR}
if [ -x "$dir/usr/bin/prometheus" ] || command -v prometheus >/dev/null; then exit 0; fi
mkdir -p "$dir"
cd "$dir"
if apt-get download -q prometheus >download.log 2>&1 && dpkg-deb -x prometheus_*.deb .; then
  rm -f prometheus_*.deb
else
  echo "no Prometheus from Debian ($dir/download.log): the test that has it ask a server is skipped" >&2
fi
