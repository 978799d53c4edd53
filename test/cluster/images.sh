#!/usr/bin/env bash
# Writes the cluster's own images as archives: pause, CoreDNS, the workload.
set -euo pipefail
. "$(dirname "$0")/settings.sh"
image() { # NAME ARGUMENTS of the tool…: unless the same bytes are there
  local archive=$state/images/$1.tar
  "$bin/tool" image -o "$archive.new" -tag "cluster.test/$1:1" "${@:2}"
  if cmp -s "$archive" "$archive.new"; then rm "$archive.new"; else mv "$archive.new" "$archive"; fi
}
image pause -entrypoint "/workload pause" /workload="$bin/workload"
image coredns -entrypoint /coredns /coredns="$bin/coredns"
image workload -entrypoint /workload /workload="$bin/workload" /bin/busybox="$(command -v busybox)" \
  /bin/sh=@busybox /bin/ip=@busybox /bin/wget=@busybox /bin/nslookup=@busybox /bin/cat=@busybox /bin/ps=@busybox /bin/ls=@busybox /bin/sleep=@busybox
