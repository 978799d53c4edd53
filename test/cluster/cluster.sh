#!/usr/bin/env bash
# A real Kubernetes cluster on this machine, in network namespaces of its own:
#   cluster.sh up | down            bring $CLUSTER up with $NODES nodes, take it away
#   cluster.sh exec COMMAND…        run in node 1's network, KUBECONFIG and kubectl at hand
#   cluster.sh import ARCHIVE…      bring images into every node
#   cluster.sh stop NAME            kill a process, say kube-apiserver; up starts it again
#   cluster.sh api                  start a stopped API server again, and wait for nothing
# CLUSTER=seine NODES=1 PROXY_MODE=nftables (or iptables) unless set; several clusters live side by side by name.
set -euo pipefail
. "$(dirname "$0")/settings.sh"
case "${1:-}" in
  up | down) exec "$here/$1.sh" ;;
  api) exec "$here/up.sh" api ;;
  exec) PATH="$bin:$PATH" KUBECONFIG="$admin" in_node 1 "${@:2}" ;;
  import)
    for socket in "$run"/node*/containerd.sock; do
      for archive in "${@:2}"; do ctr -a "$socket" -n k8s.io images import "$archive" >/dev/null; done
    done
    ;;
  stop) kill -9 $(cat "$run/$2"-*.pid) ;;
  *)
    sed -n 's/^# \?//p' "$0" | sed 1d >&2
    exit 2
    ;;
esac
