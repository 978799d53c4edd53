#!/usr/bin/env bash
# Fetches the peers that this machine lacks and runs the benchmark; arguments
# are those of `go run ./bench -h`. Programs that cannot be had are left out.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=.cache/bench
mkdir -p "$cache"

# nginx, HAProxy, wrk and h2load come from Debian; so does perf, without which
# system calls are not counted.
missing=()
for p in nginx haproxy wrk h2load:nghttp2-client perf:linux-perf; do
	PATH="$PATH:/usr/sbin:/sbin" command -v "${p%:*}" >/dev/null || missing+=("${p#*:}")
done
[[ -e /usr/lib/nginx/modules/ngx_stream_module.so ]] || missing+=(libnginx-mod-stream)
if ((${#missing[@]})) && command -v apt-get >/dev/null; then
	sudo=()
	[[ $(id -u) == 0 ]] || sudo=(sudo -n)
	echo "installing ${missing[*]} …" >&2
	"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null ||
		echo "cannot install ${missing[*]}: as root, apt-get install ${missing[*]}" >&2
fi

envoy=$(./bench/envoy.sh || true)

# What is measured is what the source says now, built as it ships: an old
# program in bin/ would give old figures. With -bin, the caller answers for it.
own=true
for a in "$@"; do
	[[ $a == -bin || $a == --bin || $a == -bin=* || $a == --bin=* ]] && own=false
done
if $own; then
	make --no-print-directory build
fi

args=()
[[ -x $envoy ]] && args+=(-envoy "$envoy")
go build -o "$cache/bench" ./bench
exec "$cache/bench" "${args[@]}" "$@"
