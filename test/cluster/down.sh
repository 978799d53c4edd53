#!/usr/bin/env bash
# Takes the cluster $CLUSTER away: processes, pods, network, cgroups, state.
set -uo pipefail
. "$(dirname "$0")/settings.sh"

# A pid file counts while its process is still the program it was written for.
live() { # PIDFILE: prints the pid
  local pid name
  name=$(basename "$1" .pid)
  pid=$(cat "$1") && running "$pid" && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q -- "${name%-*}" && echo "$pid"
}
stop() { # NAME…: TERM to all of each, on every node, and KILL to those left after 2 s
  local name file pids left=40
  while [ $((left -= 1)) -ge 0 ]; do
    pids=()
    for name; do
      for file in "$run/$name"-[0-9]*.pid; do
        [ -e "$file" ] && pids+=($(live "$file"))
      done
    done
    [ ${#pids[@]} -gt 0 ] || return
    case $left in
      39) kill "${pids[@]}" 2>/dev/null ;;
      0) kill -9 "${pids[@]}" 2>/dev/null ;;
    esac
    sleep 0.05
  done
}

stop kubelet kube-proxy kube-scheduler kube-controller-manager kube-apiserver
stop etcd containerd
# shims outlive containerd, and containers their shims
for cmdline in /proc/[0-9]*/cmdline; do
  tr '\0' ' ' 2>/dev/null <"$cmdline" | grep -q -- "containerd-shim-runc-v2.*-address $run/node" &&
    kill -9 "$(basename "$(dirname "$cmdline")")"
done
for root in /sys/fs/cgroup/{,*/}seine-"$CLUSTER"-[0-9]*; do
  [ -d "$root" ] && find "$root" -name cgroup.procs -exec cat {} + | sort -u | xargs -r kill -9 2>/dev/null
done
stop mounts # and with it every mount of the node
for netns in /run/netns/seine-"$CLUSTER" /run/netns/seine-"$CLUSTER"-[0-9]*; do
  [ -e "$netns" ] && ip netns del "$(basename "$netns")"
done
for root in /sys/fs/cgroup/{,*/}seine-"$CLUSTER"-[0-9]*; do
  [ -d "$root" ] && find "$root" -depth -type d -exec rmdir {} + 2>/dev/null
done
awk -v s="$state/" -v r="$run/" 'index($2,s)==1 || index($2,r)==1 {print $2}' /proc/mounts | sort -r | xargs -r umount -l
rm -rf "$run" "$state"
# the last cluster puts back what kubelet changed for the whole machine
if [ "$(ls /run/seine-cluster 2>/dev/null)" = sysctl.saved ]; then
  sysctl -qp /run/seine-cluster/sysctl.saved
  rm -r /run/seine-cluster
fi
exit 0
