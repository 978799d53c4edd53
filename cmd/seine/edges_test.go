package main

import (
	"bytes"
	"strings"
	"testing"
)

func edgesOut(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := edgesCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestEdges(t *testing.T) {
	address := serveStat(t, "tcp", "127.0.0.1:0").String()
	for _, c := range []struct {
		args       []string
		want, none string
	}{
		{nil, "frontend", "SERVICE"},
		{[]string{"-o", "wide"}, "SOURCE IDENTITY", "SRC_NS"},
		{[]string{"-n", "default"}, "frontend", "no traffic"},
		{[]string{"-n", "other"}, "no traffic", "frontend"},
		{[]string{"-A"}, "frontend", "no traffic"},
		{[]string{"-o", "json"}, `"workload": "frontend"`, "SRC"},
		{[]string{"-o", "json", "-n", "other"}, "[]", "frontend"},
	} {
		out, err := edgesOut(t, append(c.args, "--address", address)...)
		if err != nil || !strings.Contains(out, c.want) || strings.Contains(out, c.none) {
			t.Errorf("%v: %v, want %q and not %q\n%s", c.args, err, c.want, c.none, out)
		}
	}
	for _, c := range [][2]string{{"-o=xml", "none of text, wide, json, yaml"}, {"--color=blue", "none of auto"}, {"more", "unknown command"}} {
		if out, err := edgesOut(t, "--address", address, c[0]); err == nil || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%v: %v\n%s", c, err, out)
		}
	}
}
