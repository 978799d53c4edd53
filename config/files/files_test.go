package files

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/seinemesh/seine/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func service(name string) string {
	return "apiVersion: v1\nkind: Service\nmetadata: {name: " + name + "}\nspec: {ports: [{name: http, port: 80}]}\n"
}

func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func names(r *config.Result) string {
	if r == nil {
		return "nothing"
	}
	var out []string
	for _, s := range r.Snapshot.Services {
		out = append(out, s.Name)
	}
	return strings.Join(out, " ")
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b.yaml", "a.yml", "sub/c.json", "sub/deep/d.yaml", ".hidden.yaml", ".git/e.yaml", "x.yaml~", "#x.yaml", ".x.yaml.swp", "README.md"} {
		data := service(strings.NewReplacer(".", "", "/", "", "~", "", "#", "").Replace(name))
		if filepath.Ext(name) == ".json" {
			data = "{\"apiVersion\": \"v1\",\n\t\"kind\": \"Service\", \"metadata\": {\"name\": \"subc\"}, \"spec\": {\"ports\": [{\"port\": 80}]}}"
		}
		write(t, filepath.Join(dir, name), data)
	}
	// Links are followed, once: to a file that is read anyway, to a folder above,
	// to one outside, and to nowhere.
	outside := filepath.Join(t.TempDir(), "more")
	write(t, filepath.Join(outside, "f.yaml"), service("outside"))
	for link, target := range map[string]string{"z.yaml": filepath.Join(dir, "b.yaml"), "loop": dir, "out": outside, "gone.yaml": "/nowhere/at/all"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Load(Options{Paths: []string{dir, filepath.Join(dir, "a.yml")}})
	if err != nil {
		t.Fatal(err, r)
	}
	if got, want := names(r), "ayml byaml outside subc subdeepdyaml"; got != want {
		t.Errorf("read %q, want %q", got, want)
	}
}

func TestLoadErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(Options{Paths: []string{filepath.Join(dir, "no")}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a path that is not there: %v", err)
	}
	if _, err := Load(Options{Paths: []string{dir}}); !errors.Is(err, ErrNoFiles) {
		t.Errorf("an empty folder: %v", err)
	}
	mesh := filepath.Join(dir, "mesh")
	write(t, mesh, "trustDomain: td.example\n")
	if files, mc, err := Read(Options{MeshConfig: mesh}); err != nil || len(files) != 0 || mc == nil {
		t.Errorf("a MeshConfig alone: %v, %v", mc, err)
	}
	write(t, filepath.Join(dir, "bad.yaml"), service("a")+"---\nkind: [\n")
	r, err := Load(Options{Paths: []string{dir}})
	var refused *config.RefusedError
	if !errors.As(err, &refused) || r == nil {
		t.Errorf("a broken file: %v, %v", err, r)
	}
}

// watching runs Watch and gives its events one by one.
func watching(t *testing.T, opt Options) (next func() config.Event) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	events, ended := make(chan config.Event), make(chan error, 1)
	opt.Debounce = 5 * time.Millisecond
	go func() {
		ended <- New(opt).Watch(ctx, func(e config.Event) {
			select {
			case events <- e:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch ended with %v", err)
		}
	})
	return func() config.Event {
		t.Helper()
		select {
		case e := <-events:
			return e
		case <-time.After(20 * time.Second):
			t.Fatal("no event")
			panic("")
		}
	}
}

func TestWatch(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "sub", "deep", "b.yaml")
	write(t, a, service("one"))
	next := watching(t, Options{Paths: []string{dir}})

	expect := func(what, want string) config.Event {
		t.Helper()
		e := next()
		for e.Err == nil && names(e.Result) != want { // a slow machine may show steps in between
			e = next()
		}
		if e.Err != nil {
			t.Fatalf("%s: %v", what, e.Err)
		}
		return e
	}
	fail := func(what, want, keeps string) {
		t.Helper()
		e := next()
		for e.Err == nil {
			e = next()
		}
		if !strings.Contains(e.Err.Error(), want) || names(e.Result) != keeps {
			t.Fatalf("%s: %v, keeps %s", what, e.Err, names(e.Result))
		}
	}
	first := expect("start", "one")
	write(t, a, service("one")+"---\n"+service("two"))
	if second := expect("a change", "one two"); second.Result.Snapshot.Generation <= first.Result.Snapshot.Generation {
		t.Error("the generation did not grow")
	}
	write(t, a, "apiVersion: v1\nkind: Serv")
	fail("half a file", "a.yaml:2", "one two")
	write(t, a, service("one")+"---\n"+service("two"))
	expect("the old content again", "one two")
	write(t, b, service("three"))
	expect("a new folder", "one two three")
	write(t, b+".tmp", service("four"))
	if err := os.Rename(b+".tmp", b); err != nil {
		t.Fatal(err)
	}
	expect("an atomic replacement", "one two four")
	if err := os.RemoveAll(filepath.Join(dir, "sub")); err != nil {
		t.Fatal(err)
	}
	expect("a folder removed", "one two")
	write(t, b, service("five"))
	expect("and made again", "one two five")
	if err := os.Remove(b); err != nil {
		t.Fatal(err)
	}
	expect("a file removed", "one two")
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	fail("the folder gone", "no such file", "one two")
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	expect("the folder back", "one two")
	write(t, a, "") // emptied; then written after a while
	write(t, a, service("six"))
	expect("emptied and written", "six")
	write(t, a, "# nothing left\n")
	expect("all gone but a comment", "")
	write(t, a, service("seven"))
	expect("back", "seven")
}

// TestTruncated holds that a file that is empty for a moment takes nothing away.
func TestTruncated(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml")
	write(t, a, service("one"))
	write(t, b, service("two"))
	next := watching(t, Options{Paths: []string{dir}})
	if e := next(); names(e.Result) != "one two" {
		t.Fatal(e)
	}
	write(t, a, "")
	write(t, b, service("three"))
	write(t, a, service("four"))
	if e := next(); names(e.Result) != "four three" {
		t.Errorf("saw %q between", names(e.Result))
	}
	write(t, a, "")
	if e := next(); names(e.Result) != "three" {
		t.Errorf("an empty file that stays so: %q", names(e.Result))
	}
}

// TestConfigMap swaps a folder as the kubelet does: ..data is a link that is
// replaced, and the files are links through it.
func TestConfigMap(t *testing.T) {
	dir := t.TempDir()
	swap := func(n int, service string) {
		t.Helper()
		version := fmt.Sprintf("..2026_%d", n)
		write(t, filepath.Join(dir, version, "mesh.yaml"), service)
		if err := os.Symlink(version, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
		if n > 1 {
			if err := os.RemoveAll(filepath.Join(dir, fmt.Sprintf("..2026_%d", n-1))); err != nil {
				t.Fatal(err)
			}
		}
	}
	swap(1, service("one"))
	if err := os.Symlink("..data/mesh.yaml", filepath.Join(dir, "mesh.yaml")); err != nil {
		t.Fatal(err)
	}
	folder, file := watching(t, Options{Paths: []string{dir}}), watching(t, Options{Paths: []string{filepath.Join(dir, "mesh.yaml")}})
	for n, want := range []string{"one", "two", "three"} {
		if n > 0 {
			swap(n+1, service(want))
		}
		for _, next := range []func() config.Event{folder, file} {
			if e := next(); e.Err != nil || names(e.Result) != want {
				t.Fatalf("swap %d: %q, %v", n, names(e.Result), e.Err)
			}
		}
	}
}

func TestMeshConfig(t *testing.T) {
	dir := t.TempDir()
	mc := filepath.Join(t.TempDir(), "mesh-config")
	write(t, filepath.Join(dir, "a.yaml"), service("one"))
	write(t, mc, "trustDomain: a.example\n")
	next := watching(t, Options{Paths: []string{dir}, MeshConfig: mc})
	if e := next(); e.Err != nil || e.Result.Snapshot.Settings.TrustDomain != "a.example" {
		t.Fatal(e)
	}
	write(t, mc, "trustDomain: b.example\n")
	if e := next(); e.Err != nil || e.Result.Snapshot.Settings.TrustDomain != "b.example" {
		t.Fatal(e)
	}
}
