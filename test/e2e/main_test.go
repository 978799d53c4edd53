//go:build e2e

// Package e2e runs the real programs as a user would: `seine up` on the
// billing example, as root and as an ordinary user, and looks at what comes
// out. Everything happens on this machine's loopback and in namespaces that
// `seine up` makes.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// roleVariable makes this test binary a workload of the mesh under test.
const roleVariable = "SEINE_E2E_ROLE"

// bin is the folder that holds the programs, readable by everybody.
var bin string

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(play(role))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "seine-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = filepath.Join(dir, "bin")
	if err := build(dir, bin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// build makes the programs, and a copy of this test binary that an ordinary
// user may run.
func build(dir, bin string) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-o", bin+"/", "./cmd/seine", "./cmd/seined", "./cmd/seine-proxy")
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	cmd = exec.Command("go", "build", "-o", filepath.Join(bin, "billing"), "./examples/billing/app")
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	text, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(bin, "e2e"), text, 0o755)
}
