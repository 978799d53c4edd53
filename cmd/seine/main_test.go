package main

import (
	"bytes"
	"strings"
	"testing"
)

// runRoot runs the root command as a shell would, and gives both outputs.
func runRoot(args ...string) (out, errs string, err error) {
	cmd := root()
	var o, e bytes.Buffer
	cmd.SetOut(&o)
	cmd.SetErr(&e)
	cmd.SetArgs(args)
	err = cmd.Execute()
	return o.String(), e.String(), err
}

// Every command has an example, and says in one sentence what is wrong with its
// arguments.
func TestRoot(t *testing.T) {
	for _, c := range root().Commands() {
		if c.IsAvailableCommand() && c.Name() != "completion" && c.Name() != "help" && c.Name() != "version" && (c.Example == "" || c.Long == "") {
			t.Errorf("%s has no example or no description", c.Name())
		}
	}
	out, _, err := runRoot("version")
	if err != nil || !strings.HasPrefix(out, "seine version ") {
		t.Errorf("%q %v", out, err)
	}
	for want, args := range map[string][]string{
		"nothing to run":          {"up"},
		"none of the others can":  {"up", "--no-isolation", "--require-isolation", "x"},
		"quote the URL":           {"explain", "GET", "http://a/", "b"},
		"nothing to check":        {"analyze"},
		"unknown command":         {"analyse"},
		"--for must be":           {"up", "--for", "soon", "x"},
		"--logs must be":          {"up", "--logs", "loud", "x"},
		"must be text or json":    {"explain", "-o", "yaml", "http://a/"},
		"--mesh-config goes with": {"explain", "--mesh-config", "x", "--from", "a/b", "http://a/"},
		"no such file":            {"up", "/nonexistent"},
		`command "bogus"`:         {"ca", "bogus"},
		"such as virtualservice":  {"wait"},
		"explain: url":            {"explain", "-f", "../../examples/billing", "--from", "default/frontend"},
		"explain: from":           {"explain", "-f", "../../examples/billing", "http://billing-service:8080/"},
		"diagnose: -o yaml":       {"diagnose", "-o", "yaml"},
	} {
		out, errs, err := runRoot(args...)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") && want != "unknown command" || out != "" || errs != "" {
			t.Errorf("%q: %v (want %q), out %q, errs %q", args, err, want, out, errs)
		}
	}
}
