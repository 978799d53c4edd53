package cni

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// node is a node's directories, and a service account's.
func node(t *testing.T) (i *Installer, write func(dir, name, text string)) {
	t.Helper()
	root := t.TempDir()
	i = &Installer{
		Program: filepath.Join(root, "program"), BinDir: filepath.Join(root, "bin"), ConfDir: filepath.Join(root, "conf"),
		HostConfDir: "/etc/cni/net.d", Account: filepath.Join(root, "account"), Server: "https://10.96.0.1:443", Log: slog.New(slog.DiscardHandler),
	}
	write = func(dir, name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{i.BinDir, i.ConfDir, i.Account} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(root, "program", "ELF")
	write(i.Account, "token", "first")
	write(i.Account, "ca.crt", "PEM")
	write(i.Account, "namespace", "mesh-cni")
	return i, write
}

func read(t *testing.T, parts ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(parts...))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(b)
}

const bridge = `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge"}]}`

func TestEnsure(t *testing.T) {
	i, write := node(t)
	if err := i.ensure(); err == nil || !strings.Contains(err.Error(), "no network configuration") {
		t.Errorf("without a configuration: %v", err)
	}
	write(i.ConfDir, "20-second.conflist", bridge)
	write(i.ConfDir, "10-first.conflist", bridge)
	if err := os.Chmod(filepath.Join(i.ConfDir, "10-first.conflist"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := errors.Join(i.ensure(), i.Check()); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, i.ConfDir, "20-second.conflist"); got != bridge {
		t.Errorf("changed what the runtime does not use: %s", got)
	}
	first := read(t, i.ConfDir, "10-first.conflist")
	for _, part := range []string{`"/etc/cni/net.d/seine-cni.kubeconfig"`, `"mesh-cni"`, `"kube-system"`} {
		if !strings.Contains(first, part) {
			t.Errorf("no %s in %s", part, first)
		}
	}
	for file, mode := range map[string]fs.FileMode{
		filepath.Join(i.ConfDir, kubeconfigName): 0o600, filepath.Join(i.ConfDir, "10-first.conflist"): 0o600, filepath.Join(i.BinDir, Name): 0o755,
	} {
		if info, err := os.Stat(file); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", file, err, info.Mode())
		}
	}

	write(i.Account, "token", "second\n")
	write(i.BinDir, Name, "damaged")
	if err := i.ensure(); err != nil {
		t.Fatal(err)
	}
	if a, err := ParseKubeconfig([]byte(read(t, i.ConfDir, kubeconfigName))); err != nil || a.Token != "second" {
		t.Errorf("the token did not rotate: %v", err)
	}
	if got := read(t, i.BinDir, Name); got != "ELF" {
		t.Errorf("program: %s", got)
	}

	write(i.ConfDir, "05-other.conf", `{"type":"bridge"}`)
	if err := i.ensure(); err == nil || !strings.Contains(err.Error(), "05-other.conf comes first") {
		t.Errorf("a configuration of one plugin: %v", err)
	}
	if err := errors.Join(os.Remove(filepath.Join(i.ConfDir, "05-other.conf")), i.remove()); err != nil {
		t.Fatal(err)
	}
	if got := read(t, i.ConfDir, "10-first.conflist"); !same([]byte(got), []byte(bridge)) {
		t.Errorf("left behind: %s", got)
	}
	if left, err := os.ReadDir(i.ConfDir); err != nil || len(left) != 2 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if left, err := os.ReadDir(i.BinDir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestEnsureLeavesLinksAndHalfFiles(t *testing.T) {
	i, write := node(t)
	write(i.Account, "elsewhere", bridge)
	link := filepath.Join(i.ConfDir, "10-link.conflist")
	if err := os.Symlink(filepath.Join(i.Account, "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	if err := i.ensure(); err == nil || !strings.Contains(err.Error(), "not an ordinary file") {
		t.Error(err)
	}
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	write(i.ConfDir, "10-half.conflist", bridge[:20])
	if err := i.ensure(); !errors.Is(err, ErrChain) {
		t.Error(err)
	}
	if got := read(t, i.ConfDir, "10-half.conflist"); got != bridge[:20] {
		t.Errorf("wrote %s", got)
	}
}

// TestRun: what somebody rewrites is mended, and all is gone at the end.
func TestRun(t *testing.T) {
	i, write := node(t)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- i.Run(ctx) }()
	// Long before the unasked look: by the watch.
	inPlace := func() {
		t.Helper()
		for end := time.Now().Add(look - 5*time.Second); i.Check() != nil; <-time.After(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(i.Check())
			}
		}
	}
	write(i.ConfDir, "10-pods.conflist", bridge)
	inPlace()
	write(i.ConfDir, "10-pods.conflist", strings.Replace(bridge, "bridge", "ptp", 1))
	inPlace()
	if got := read(t, i.ConfDir, "10-pods.conflist"); !strings.Contains(got, "ptp") {
		t.Errorf("not what was written: %s", got)
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := i.Check(); err == nil {
		t.Error("still there")
	}
}
