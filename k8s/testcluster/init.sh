#!/bin/sh
# Process 1 of the cluster's namespaces: makes the network and the private places, then becomes the pause program.
#   init.sh RUN PAUSE     RUN: the folder of this cluster, PAUSE: the program that waits and buries orphans
set -eu
run=$1
pause=$2
here=/run/understudy-testcluster

# One name for the run folder in every cluster, so that the configuration needs no paths of a machine.
mkdir -p "$here"
mount --bind "$run" "$here"

# What containerd, the network plugins and the kubelet write to, whatever their options say.
for folder in /run/containerd /var/lib/cni /var/lib/kubelet /var/log/containers /var/log/pods; do
  mkdir -p "$folder" "$here/private$folder"
  mount --bind "$here/private$folder" "$folder"
done

# The kubelet sets these for the whole machine. It gets files to write to instead.
for name in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
  kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
  [ -e "/proc/sys/$name" ] || continue
  mkdir -p "$here/private/sys/${name%/*}"
  cat "/proc/sys/$name" >"$here/private/sys/$name"
  mount --bind "$here/private/sys/$name" "/proc/sys/$name"
done

ip link set lo up
# The node's address is on one end of a pair of which nobody hears the other: nothing leaves this namespace.
ip link add node0 type veth peer name nowhere0
ip link set nowhere0 up
ip address add 10.99.0.1/24 dev node0
ip link set node0 up
# Addresses of Services need a route before kube-proxy rewrites them.
ip route add default dev node0
# Any process may listen on any of these: an address per Gateway without a Service.
ip route add local 10.97.0.0/16 dev lo

for setting in ipv4/ip_forward ipv4/ip_nonlocal_bind ipv4/conf/all/route_localnet bridge/bridge-nf-call-iptables; do
  [ -e "/proc/sys/net/$setting" ] && echo 1 >"/proc/sys/net/$setting"
done

# Complete or not there: whoever waits for it reads it at once.
readlink /proc/self/ns/net >"$here/network.new"
mv "$here/network.new" "$here/network"
exec "$pause"
