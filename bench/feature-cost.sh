#!/bin/sh
# What a feature costs a request: BenchmarkCost of package proxy, off and on in
# turn for ROUNDS rounds, compared by benchstat. bench/README.md says what is in it.
# RAW=DIR keeps the rounds there and adds to those of before: several short runs
# make one result. SYSCALLS=1 counts system calls for each request (needs perf).
set -eu
cd "$(dirname "$0")/.."
rounds=${ROUNDS:-20}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
raw=${RAW:-$dir}
mkdir -p "$raw"
if [ -n "${TESTS:-}" ]; then # built before, as $TESTS.on and $TESTS.off
  cp "$TESTS.on" "$dir/proxy.test" && cp "$TESTS.off" "$dir/nometrics.test"
else
  go test -c -o "$dir/proxy.test" ./proxy
  go test -c -tags seine_nometrics -o "$dir/nometrics.test" ./proxy
fi
features=${FEATURES:-metrics json-log tap-everything-100rps tap-that-matches-nothing trace-unsampled trace-1-percent}
benchmark() { # FEATURE STATE TIME: one result, by the feature's name alone
  binary=$dir/proxy.test
  [ "$1/$2" != metrics/off ] || binary=$dir/nometrics.test
  (cd proxy && ${PERF:-} "$binary" -test.run '^$' -test.bench "^BenchmarkCost\$/^$1\$/^$2\$" -test.benchtime "$3") |
    sed -n "s#^BenchmarkCost/$1/$2#BenchmarkCost/$1#p"
}
i=0
while [ $i -lt "$rounds" ]; do
  for f in $features; do
    for state in off on; do
      benchmark "$f" $state "${TIME:-2000x}" >>"$raw/$state"
    done
  done
  i=$((i + 1))
done
n=$(grep -c '^BenchmarkCost/' "$raw/on" || true)
set -- $features
echo "# $(date -u +%Y-%m-%d), $((n / $#)) rounds in turn, load average $(cut -d' ' -f1 /proc/loadavg), $(nproc) cores"
go tool benchstat "off=$raw/off" "on=$raw/on"
[ -n "${SYSCALLS:-}" ] || exit 0
# Of the whole process, for each request: the difference of 4000 and 2000 of them,
# so that what only starting takes is not in it.
echo
echo "# system calls for each request (client and application included)"
for f in $features; do
  for state in off on; do
    for count in 2000 4000; do
      PERF="perf stat -x, -o $dir/perf.$count -e raw_syscalls:sys_enter" benchmark "$f" $state ${count}x >"$dir/null"
    done
    awk -F, -v f="$f" -v s=$state 'FNR > 1 && $1 + 0 > 0 { n[FILENAME] = $1; order[++k] = FILENAME }
      END { printf "%-28s %-4s %.2f\n", f, s, (n[order[2]] - n[order[1]]) / 2000 }' "$dir/perf.2000" "$dir/perf.4000"
  done
done
