//go:build linux

package main

import (
	"io/fs"
	"net/netip"
	"strings"
	"testing"
)

// base are the flags that every mode needs.
var base = []string{"--workload", "default/a-1", "--control", "127.0.0.1:15012", "--ca-bundle", "ca.pem", "--token", "token"}

func TestModes(t *testing.T) {
	o, err := parseFlags(base)
	if err != nil {
		t.Fatal(err)
	}
	if o.outbound.Port() != 15001 || o.inbound.Port() != 15006 || o.explicit.IsValid() || o.namespace != "default" || o.mark != 1337 || o.loops < 1 {
		t.Errorf("%+v", o)
	}
	o, err = parseFlags(append(base, "--mode", "explicit", "--outbound", "127.0.0.9:80", "--listen-inbound", "127.0.0.9:8080=127.0.0.1:18080"))
	if err != nil {
		t.Fatal(err)
	}
	if o.explicit != netip.MustParseAddrPort("127.0.0.9:80") || o.outbound.IsValid() || o.inbound.IsValid() || len(o.forwards) != 1 ||
		o.forwards[0].App != netip.MustParseAddrPort("127.0.0.1:18080") {
		t.Errorf("%+v", o)
	}
	o, err = parseFlags(append(base, "--mode", "gateway", "--publish", "fd:3=web.default.svc.cluster.local:8080"))
	if err != nil {
		t.Fatal(err)
	}
	if p := o.published[0]; p.FD != 3 || p.Host != "web.default.svc.cluster.local" || p.Port != 8080 || o.outbound.IsValid() {
		t.Errorf("%+v", o)
	}
}

func TestBadFlags(t *testing.T) {
	for _, k := range []struct {
		args []string
		want string
	}{
		{nil, "--workload must be NAMESPACE/INSTANCE"},
		{[]string{"--workload", "a/b"}, "--control is missing"},
		{append(base, "--mode", "ambient"), "--mode must be"},
		{append(base, "--mode", "gateway"), "needs --publish"},
		{append(base, "--mode", "explicit", "--inbound", "0.0.0.0:15006"), "--listen-inbound"},
		{append(base, "--outbound", "15001"), "--outbound"},
		{append(base, "--loops", "-1"), "--loops"},
		{append(base, "--publish", "fd:1=a:80"), "descriptor"},
		{append(base, "--publish", "3=a:80"), "fd:N=FQDN:PORT"},
		{append(base, "--listen-inbound", "127.0.0.1:80"), "IP:PORT=IP:APPPORT"},
		{append(base, "surplus"), "unexpected argument"},
	} {
		if _, err := parseFlags(k.args); err == nil || !strings.Contains(err.Error(), k.want) {
			t.Errorf("%v: %v, want %q", k.args, err, k.want)
		}
	}
}

func TestCPULimit(t *testing.T) {
	for _, k := range []struct {
		files map[string]string
		want  float64
	}{
		{nil, 0},
		{map[string]string{"/sys/fs/cgroup/cpu.max": "max 100000\n"}, 0},
		{map[string]string{"/sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5},
		{map[string]string{"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 0},
		{map[string]string{"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 3},
	} {
		got := cpuLimit(func(p string) ([]byte, error) {
			if s, ok := k.files[p]; ok {
				return []byte(s), nil
			}
			return nil, fs.ErrNotExist
		})
		if got != k.want {
			t.Errorf("%v: %v, want %v", k.files, got, k.want)
		}
	}
}
