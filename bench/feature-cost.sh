#!/bin/sh
# What a feature costs a request: BenchmarkCost of package proxy, off and on in
# turn for ROUNDS rounds, compared by benchstat. bench/README.md says what is in it.
set -eu
cd "$(dirname "$0")/.."
rounds=${ROUNDS:-20}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
go test -c -o "$dir/proxy.test" ./proxy
features=${FEATURES:-json-log tap-everything-100rps tap-that-matches-nothing trace-unsampled trace-1-percent}
i=0
while [ $i -lt "$rounds" ]; do
  for f in $features; do
    for state in off on; do
      (cd proxy && "$dir/proxy.test" -test.run '^$' -test.bench "^BenchmarkCost\$/^$f\$/^$state\$" -test.benchtime "${TIME:-2000x}") |
        sed -n "s#^BenchmarkCost/$f/$state#BenchmarkCost/$f#p" >>"$dir/$state"
    done
  done
  i=$((i + 1))
done
echo "# $(date -u +%Y-%m-%d), $rounds rounds in turn, load average $(cut -d' ' -f1 /proc/loadavg), $(nproc) cores"
go tool benchstat "off=$dir/off" "on=$dir/on"
