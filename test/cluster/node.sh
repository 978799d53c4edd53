# What makes a node: network, cgroups, containerd, images, kubelet, kube-proxy;
# sourced by up.sh. Each function takes the node's number.

# node_network makes the node's network namespace. Nodes meet on a bridge in
# that of node 1, and route each other's pods by it.
node_network() {
  local n=$1 ns other
  ns=$(node_netns "$n")
  [ -e "/run/netns/$ns" ] && return
  ip netns add "$ns"
  in_node "$n" ip link set lo up
  in_node "$n" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0 \
    net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1
  if [ "$n" = 1 ]; then
    in_node 1 ip link add node0 type bridge
  else
    ip link add node0 netns "$ns" type veth peer name "node$n" netns "$(node_netns 1)"
    in_node 1 ip link set "node$n" master node0 up
  fi
  in_node "$n" ip addr add "$(node_ip "$n")/24" dev node0
  in_node "$n" ip addr add "$(node_ip6 "$n")/64" dev node0 nodad
  in_node "$n" ip link set node0 up
  # Services have no address of their own, but the node's processes look for a way there.
  in_node "$n" ip route add 10.96.0.0/16 dev node0
  in_node "$n" ip route add fd96::/112 dev node0
  for other in $(seq "$NODES"); do
    [ "$other" = "$n" ] && continue
    in_node "$n" ip route add "$(pod_range "$other")" via "$(node_ip "$other")"
    in_node "$n" ip route add "$(pod_range6 "$other")" via "$(node_ip6 "$other")"
  done
}

# node_runtime starts containerd, in a mount namespace of the node's own: pod
# volumes never show among this machine's mounts, and the places that kubelet
# and CNI plugins have fixed names for are not shared with another node.
node_runtime() {
  local n=$1 nstate nrun dir mounts='mount --make-rshared /'
  nstate=$(node_state "$n") nrun=$(node_run "$n")
  mkdir -p "$nstate/imported" "$nrun"
  for dir in /var/lib/kubelet /var/log/pods /var/log/containers /etc/cni/net.d /opt/cni/bin; do
    mkdir -p "$dir" "$nstate$dir"
    mounts+=" && mount --bind $nstate$dir $dir"
  done
  cp -u /usr/lib/cni/{bridge,host-local,loopback,portmap} "$nstate/opt/cni/bin/"
  start "$n" mounts unshare --mount --propagation private bash -c "$mounts && exec -a seine-mounts-$CLUSTER-$n sleep infinity"
  wait_for 5 "the mount namespace" grep -q "^seine-mounts-$CLUSTER-$n" "/proc/$(cat "$run/mounts-$n.pid")/cmdline"
  node_cgroup "$n"
  node_config "$n"
  start_mounted "$n" containerd containerd -c "$nstate/containerd.toml" -l warn
}

# node_cgroup makes the node's cgroup in every hierarchy: a kubelet removes pod
# cgroups that it does not know, and must not meet another's.
node_cgroup() {
  local dir root=seine-$CLUSTER-$1
  mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup
  if [ -e /sys/fs/cgroup/cgroup.subtree_control ]; then
    echo '+cpuset +cpu +io +memory +pids' >/sys/fs/cgroup/cgroup.subtree_control
    mkdir -p "/sys/fs/cgroup/$root"
    return
  fi
  for dir in /sys/fs/cgroup/*/; do
    [ -h "${dir%/}" ] || mkdir -p "$dir$root"
  done
  cat /sys/fs/cgroup/cpuset/cpuset.cpus >"/sys/fs/cgroup/cpuset/$root/cpuset.cpus"
  cat /sys/fs/cgroup/cpuset/cpuset.mems >"/sys/fs/cgroup/cpuset/$root/cpuset.mems"
}

# node_config writes the configuration of containerd and the CNI plugins.
node_config() {
  local n=$1 nstate nrun restrict_oom=false
  nstate=$(node_state "$n") nrun=$(node_run "$n")
  # Without CAP_SYS_RESOURCE (some sandboxes) no process may lower its
  # oom_score_adj, and runc would die trying.
  (echo -1 >"/proc/$BASHPID/oom_score_adj") 2>/dev/null || restrict_oom=true
  put "$nstate/containerd.toml" <<E
version = 2
root = "$nstate/containerd"
state = "$nrun/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "$nrun/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "cluster.test/pause:1"
  restrict_oom_score_adj = $restrict_oom
  netns_mounts_under_state_dir = true
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
[plugins."io.containerd.internal.v1.opt"]
  path = "$nstate/containerd-opt"
E
  put "$nstate/etc/cni/net.d/10-bridge.conflist" <<E
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$nrun/cni-ipam",
            "ranges": [[{"subnet": "$(pod_range "$n")"}], [{"subnet": "$(pod_range6 "$n")"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
E
}

# import_images brings the cluster's own images into the node's containerd.
import_images() {
  local n=$1 archive seen
  for archive in "$state"/images/*.tar; do
    seen=$(node_state "$n")/imported/$(basename "$archive")
    [ "$seen" -nt "$archive" ] && continue
    node_ctr "$n" images import "$archive" >/dev/null
    touch "$seen"
  done
}

# node_kubelet starts kubelet and kube-proxy.
node_kubelet() {
  local n=$1 nstate
  nstate=$(node_state "$n")
  : >"$nstate/resolv.conf" # names outside the cluster are for nobody to ask
  put "$nstate/kubelet.yaml" <<E
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $(node_ip "$n")
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $pki/node$n.crt
tlsPrivateKeyFile: $pki/node$n.key
cgroupDriver: cgroupfs
cgroupRoot: /seine-$CLUSTER-$n
containerRuntimeEndpoint: unix://$(node_run "$n")/containerd.sock
clusterDNS: [$dns_ip]
clusterDomain: cluster.local
resolvConf: $nstate/resolv.conf
failSwapOn: false
failCgroupV1: false
serializeImagePulls: false
kubeAPIQPS: 500
kubeAPIBurst: 1000
registryPullQPS: 0
makeIPTablesUtilChains: false
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
healthzBindAddress: 127.0.0.1
syncFrequency: 10s
shutdownGracePeriod: 0s
E
  start_mounted "$n" kubelet "$bin/kubelet" --config="$nstate/kubelet.yaml" --kubeconfig="$pki/node$n.kubeconfig" \
    --hostname-override="node$n" --node-ip="$(node_ip "$n"),$(node_ip6 "$n")" \
    --node-labels="topology.kubernetes.io/region=region1,topology.kubernetes.io/zone=zone$n"
  put "$nstate/kube-proxy.yaml" <<E
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: $PROXY_MODE
clusterCIDR: $pod_ranges
hostnameOverride: node$n
clientConnection: {kubeconfig: $pki/proxy.kubeconfig}
bindAddress: 127.0.0.1
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
nftables: {minSyncPeriod: 100ms}
iptables: {minSyncPeriod: 100ms}
E
  start "$n" kube-proxy "$bin/kube-proxy" --config="$nstate/kube-proxy.yaml"
}
