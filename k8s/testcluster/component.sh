#!/bin/sh
# Starts and stops one part of the cluster, from inside its namespaces. The script that `start` runs was written by
# `cargo xtask cluster up`; it leaves its process id in pid/NAME and becomes the program.
#   component.sh start|stop|running NAME
set -u
here=/run/understudy-testcluster
name=$2
pid() { cat "$here/pid/$name" 2>/dev/null; }
running() { p=$(pid) && [ -n "$p" ] && kill -0 "$p" 2>/dev/null; }

case $1 in
  running) running ;;
  start)
    running && exit 0
    [ -e "$here/start/$name" ] || { echo "there is no component $name; there are: $(ls "$here/start" | xargs)" >&2; exit 2; }
    setsid sh "$here/start/$name" </dev/null >>"$here/log/$name.log" 2>&1 &
    ;;
  stop)
    running || exit 0
    p=$(pid)
    kill "$p"
    tries=100
    while kill -0 "$p" 2>/dev/null; do
      tries=$((tries - 1))
      [ "$tries" -gt 0 ] || { kill -9 "$p"; break; }
      sleep 0.1
    done
    rm -f "$here/pid/$name"
    ;;
  *) echo "usage: component.sh start|stop|running NAME" >&2; exit 2 ;;
esac
