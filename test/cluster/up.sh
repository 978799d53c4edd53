#!/usr/bin/env bash
# Brings the cluster $CLUSTER up, with $NODES nodes; as root. What already runs
# is left alone, so it also mends a cluster that lost a process.
set -euo pipefail
. "$(dirname "$0")/settings.sh"
started=${EPOCHREALTIME/./}
say() { printf '[%5.2f s] %s\n' "$(((${EPOCHREALTIME/./} - started) / 10000))e-2" "$*" >&2; }
[ "$(id -u)" = 0 ] || die "up needs root: it makes network namespaces and cgroups"
for tool in containerd runc nft iptables conntrack busybox ip; do
  command -v "$tool" >/dev/null || die "$tool is missing: run test/deps.sh"
done
mkdir -p "$bin" "$state/images" "$run/log"
chmod 700 "$state"
start() { # NODE NAME COMMAND…: in the node's network namespace, unless it runs already
  local name=$2-$1 pid
  pid=$(cat "$run/$name.pid" 2>/dev/null) && running "$pid" && return
  setsid nsenter --net="/run/netns/$(node_netns "$1")" "${@:3}" >>"$run/log/$name.log" 2>&1 </dev/null &
  echo $! >"$run/$name.pid"
}
. "$here/controlplane.sh"
if [ "${1:-}" = api ]; then
  start_api
  exit
fi
kubernetes=$("$here/build.sh")
ln -sfn "$kubernetes"/* "$bin/"
(cd "$here/../.." && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$bin/" ./test/cluster/tool ./test/workload)
"$here/images.sh"
say "binaries and images present"

wait_for() { # SECONDS WHAT COMMAND…
  local end=$((SECONDS + $1)) what=$2
  until "${@:3}" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || die "timed out waiting for $what: see $run/log"
    sleep 0.05
  done
}
put() { # FILE: stdin into it unless it says that already (kube-proxy exits when its file is written)
  cat >"$1.new"
  if cmp -s "$1.new" "$1"; then rm "$1.new"; else mv "$1.new" "$1"; fi
}
start_mounted() { # NODE NAME COMMAND…: in the node's mount namespace as well
  start "$1" "$2" nsenter --mount --target "$(cat "$run/mounts-$1.pid")" "${@:3}"
}

. "$here/node.sh"

names=()
for n in $(seq "$NODES"); do names+=("node$n=$(node_ip "$n"),$(node_ip6 "$n")"); done
"$bin/tool" pki -dir "$pki" -server "$api_server" -service-ip 10.96.0.1 "${names[@]}"
# what kubelet changes for the whole machine; the last cluster's down puts it back
saved=/run/seine-cluster/sysctl.saved
[ -e $saved ] || sysctl kernel.panic kernel.panic_on_oops vm.overcommit_memory vm.panic_on_oom kernel.keys.root_maxkeys kernel.keys.root_maxbytes >$saved

for n in $(seq "$NODES"); do node_network "$n"; done
start_api
for n in $(seq "$NODES"); do node_runtime "$n"; done
for n in $(seq "$NODES"); do
  wait_for 20 "containerd of node $n" node_ctr "$n" version
  import_images "$n"
done
say "containerd up, images imported"
wait_for 60 "the API server" kubectl get --raw /readyz
say "API server ready"
start_controllers
for n in $(seq "$NODES"); do node_kubelet "$n"; done
kubectl apply -f "$here/coredns.yaml" >/dev/null
for n in $(seq "$NODES"); do
  wait_for 60 "node $n to register" kubectl get node "node$n"
  kubectl wait --for=condition=Ready "node/node$n" --timeout=60s >/dev/null
done
say "nodes Ready"
kubectl -n kube-system rollout status deployment/coredns --timeout=60s >/dev/null
for pidfile in "$run"/*.pid; do
  running "$(cat "$pidfile")" || die "$(basename "$pidfile" .pid) has died: see $run/log"
done
say "cluster DNS ready; export KUBECONFIG=$admin"
