package rundir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDefault(t *testing.T) {
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	for _, tt := range []struct{ xdg, home, want, state string }{
		{dir, home, filepath.Join(dir, "seine"), filepath.Join(home, ".seine/state")},
		{"", home, filepath.Join(home, ".seine/run"), filepath.Join(home, ".seine/state")},
		{"relative", home, filepath.Join(home, ".seine/run"), filepath.Join(home, ".seine/state")},
		{"/none", "", "", ""},
	} {
		t.Setenv("XDG_RUNTIME_DIR", tt.xdg)
		t.Setenv("HOME", tt.home)
		run, state := Default(), DefaultState()
		if tt.want == "" {
			if !strings.HasPrefix(run, filepath.Join(dir, "seine-")) || !strings.HasPrefix(state, filepath.Join(dir, "seine-")) {
				t.Errorf("without a home: %s, %s", run, state)
			}
			continue
		}
		if run != tt.want || state != tt.state {
			t.Errorf("XDG %q, home %q: %s, %s", tt.xdg, tt.home, run, state)
		}
	}
}

func TestTakeAndClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "run")
	d, err := Take(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := Take(path); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("a second mesh: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(path, "logs", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "join-secret"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Close("logs"); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(path); err != nil || len(entries) != 1 || entries[0].Name() != "logs" {
		t.Errorf("kept %v, %v", entries, err)
	}
	// What a mesh that was killed left is gone at the next start.
	if d, err = Take(path); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(path, "logs")); !os.IsNotExist(err) {
		t.Errorf("logs of before: %v", err)
	}
	if err := d.Close(""); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("after Close: %v", err)
	}
}

func TestTakeRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := Take(filepath.Join(dir, strings.Repeat("x", 100))); err == nil || !strings.Contains(err.Error(), "--run-dir") {
		t.Errorf("too long: %v", err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if _, err := Take(link); err == nil || !strings.Contains(err.Error(), "not a folder of this user") {
		t.Errorf("a link: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Take(file); err == nil {
		t.Error("a file was taken")
	}
	if os.Getuid() == 0 {
		other := filepath.Join(dir, "other")
		if err := os.Mkdir(other, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(other, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		if _, err := Take(other); err == nil || !strings.Contains(err.Error(), "not a folder of this user") {
			t.Errorf("somebody else's: %v", err)
		}
	}
}

// TestTakeLeavesOthersAlone: a folder that is no run folder is not emptied, whatever
// the flag says.
func TestTakeLeavesOthersAlone(t *testing.T) {
	dir := t.TempDir()
	mine := filepath.Join(dir, "thesis.tex")
	if err := os.WriteFile(mine, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err := Take(dir); err == nil {
		d.Close("")
		t.Error("it was taken")
	}
	if _, err := os.Stat(mine); err != nil {
		t.Errorf("a file of the user's: %v", err)
	}
	// Logs that a mesh left, and what a killed one did, are no obstacle.
	for _, name := range []string{Logs, lockName} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, Logs), 0o700); err != nil {
			t.Fatal(err)
		}
		if name == lockName {
			for _, f := range []string{lockName, SocketName} {
				if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		d, err := Take(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Close(""); err != nil {
			t.Error(err)
		}
	}
}
