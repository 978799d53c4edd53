# The settings of a test cluster, sourced by the scripts beside it. CLUSTER,
# NODES, PROXY_MODE, API_SERVER_FLAGS and CLUSTER_CACHE are for the caller to set; the rest is derived.
CLUSTER=${CLUSTER:-seine} # several clusters live side by side, each under its name
NODES=${NODES:-1}         # node 1 also runs the control plane
PROXY_MODE=${PROXY_MODE:-nftables} # of kube-proxy: nftables or iptables
API_SERVER_FLAGS=${API_SERVER_FLAGS:-} # more of them, as --feature-gates=ClusterTrustBundle=true
CLUSTER_CACHE=${CLUSTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/seine-cluster}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
state=/var/lib/seine-cluster/$CLUSTER # PKI, kubeconfigs, images
run=/run/seine-cluster/$CLUSTER       # pid files, sockets, logs, etcd's data
bin=$state/bin
pki=$state/pki
admin=$pki/admin.kubeconfig
kubernetes_version=1.34.4 # as kube/go.mod has it

# Every cluster has the same addresses: each is in network namespaces of its own.
api_server=https://10.99.0.1:6443
service_ranges=10.96.0.0/16,fd96::/112
pod_ranges=10.244.0.0/16,fd44::/56
dns_ip=10.96.0.10
node_ip() { echo "10.99.0.$1"; }
node_ip6() { echo "fd99::$1"; }
pod_range() { echo "10.244.$(($1 - 1)).0/24"; }
pod_range6() { printf 'fd44:0:0:%x::/64\n' $(($1 - 1)); }

node_netns() { if [ "$1" = 1 ]; then echo "seine-$CLUSTER"; else echo "seine-$CLUSTER-$1"; fi; }
node_state() { echo "$state/node$1"; }
node_run() { echo "$run/node$1"; }
# nsenter, not `ip netns exec`: the latter mounts a new /sys and hides the cgroups.
in_node() { nsenter --net="/run/netns/$(node_netns "$1")" "${@:2}"; }
kubectl() { in_node 1 "$bin/kubectl" --kubeconfig "$admin" "$@"; }
node_ctr() { ctr -a "$(node_run "$1")/containerd.sock" -n k8s.io "${@:2}"; }

die() { echo "cluster $CLUSTER: $*" >&2; exit 1; }
running() { [ -n "${1:-}" ] && kill -0 "$1" 2>/dev/null && ! grep -q '^State:.*[ZX]' "/proc/$1/status"; }
