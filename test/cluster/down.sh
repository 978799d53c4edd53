#!/usr/bin/env bash
# Takes the cluster $CLUSTER away: processes, pods, network, cgroups, state.
# Nothing of it is kept, so nothing is asked to end in good order.
set -uo pipefail
. "$(dirname "$0")/settings.sh"

# The processes of the pid files, while they are still the programs that these
# were written for; the last of them holds the mounts of the nodes.
for pidfile in "$run"/kubelet-*.pid "$run"/[!km]*.pid "$run"/kube-*.pid "$run"/mounts-*.pid; do
  [ -e "$pidfile" ] || continue
  pid=$(cat "$pidfile") name=$(basename "$pidfile" .pid)
  running "$pid" && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q -- "${name%-*}" && kill -9 "$pid"
done
# Shims outlive containerd, and containers their shims.
for cmdline in /proc/[0-9]*/cmdline; do
  tr '\0' ' ' 2>/dev/null <"$cmdline" | grep -q -- "containerd-shim-runc-v2.*-address $run/node" &&
    kill -9 "$(basename "$(dirname "$cmdline")")"
done
cgroups=$(find /sys/fs/cgroup -maxdepth 2 -type d -name "seine-$CLUSTER-[0-9]*")
if [ -n "$cgroups" ]; then
  for _ in $(seq 100); do
    pids=$(find $cgroups -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u)
    [ -n "$pids" ] || break
    kill -9 $pids 2>/dev/null
    sleep 0.05
  done
  find $cgroups -depth -type d -exec rmdir {} \;
fi
for netns in /run/netns/seine-"$CLUSTER" /run/netns/seine-"$CLUSTER"-[0-9]*; do
  [ -e "$netns" ] && ip netns del "$(basename "$netns")"
done
awk -v s="$state/" -v r="$run/" 'index($2,s)==1 || index($2,r)==1 {print $2}' /proc/mounts | sort -r | xargs -r umount -l
rm -rf "$run" "$state"
# The last cluster puts back what kubelet changed for the whole machine.
if [ "$(ls /run/seine-cluster 2>/dev/null)" = sysctl.saved ]; then
  sysctl -qp /run/seine-cluster/sysctl.saved
  rm -r /run/seine-cluster
fi
exit 0
