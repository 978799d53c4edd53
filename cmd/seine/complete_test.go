package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestCompleteLive(t *testing.T) {
	address := serveStat(t, "tcp", "127.0.0.1:0").String()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"edges", "--address", address, "--namespace", ""}, "default\n:4\n"},
		{[]string{"explain", "--control", address, "--from", ""}, "default/frontend\n:4\n"},
		{[]string{"edges", "--address", "127.0.0.1:1", "--namespace", ""}, ":4\n"}, // nobody there
	} {
		cmd := root()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&bytes.Buffer{})
		cmd.SetArgs(append([]string{"__complete"}, c.args...))
		if err := cmd.ExecuteContext(t.Context()); err != nil || !strings.HasPrefix(out.String(), c.want) {
			t.Errorf("%v: %v\n%s", c.args, err, out.String())
		}
	}
}
