#!/usr/bin/env bash
# Installs what the tests need and the machine lacks (Debian and Ubuntu): a C
# compiler for the race detector, Prometheus, Node, Chromium and, for root, what a
# node of the test cluster is made of. Everything else is pinned in go.mod and
# ui/package-lock.json.
set -euo pipefail

missing=()
need() { # COMMAND PACKAGE…
  PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null || missing+=("${@:2}")
}
need gcc gcc libc6-dev
need make make
need git git ca-certificates
need promtool prometheus
# The dashboard's tests. Node from elsewhere brings its own npm.
need node nodejs
need npm npm
need chromium chromium fonts-dejavu-core
if [ "$(id -u)" = 0 ]; then
  need containerd containerd
  need runc runc
  need nft nftables
  need iptables iptables
  need conntrack conntrack
  need busybox busybox-static
  need ip iproute2
  need sysctl procps
  [ -x /usr/lib/cni/bridge ] || missing+=(containernetworking-plugins)
fi
if ((${#missing[@]})); then
  sudo=
  [ "$(id -u)" = 0 ] || sudo=sudo
  install() {
    $sudo apt-get update -q &&
      $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
  }
  # A package mirror may fail for a moment.
  install || { sleep 10 && install; } || { sleep 30 && install; } || {
    echo "deps: could not install ${missing[*]}: see apt's words above" >&2
    exit 1
  }
fi
go version
