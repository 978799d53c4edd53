package image

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"debug/buildinfo"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// module writes a module with one program into a new directory.
func module(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":            "module example.com/hello\n\ngo 1.26.0\n",
		"cmd/hello/main.go": "package main\n\nfunc main() { println(\"hello\") }\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The same source gives the same archive, wherever it lies, for both architectures.
func TestReproducible(t *testing.T) {
	var archives [2][]byte
	for i := range archives {
		dir := module(t)
		var images []v1.Image
		for _, arch := range []string{"amd64", "arm64"} {
			img, err := Program{Name: "hello", User: "1337:1337"}.Build(t.Context(), dir, "1.2.3", arch)
			if err != nil {
				t.Fatal(err)
			}
			images = append(images, img)
		}
		index, err := Index(images...)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "hello.tar")
		if err := WriteArchive(file, "seinemesh/hello:1.2.3", index); err != nil {
			t.Fatal(err)
		}
		if archives[i], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two builds of one source differ")
	}
	index := string(readTar(t, bytes.NewReader(archives[0]))["index.json"].data)
	if !strings.Contains(index, `"docker.io/seinemesh/hello:1.2.3"`) {
		t.Errorf("the archive does not name its image in full: %s", index)
	}
}

func TestProgramImage(t *testing.T) {
	img, err := Program{Name: "hello", User: "1337:1337", Public: true}.Build(t.Context(), module(t), "1.2.3", "arm64")
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Architecture != "arm64" || config.OS != "linux" || config.Config.User != "1337:1337" ||
		!slices.Equal(config.Config.Entrypoint, []string{"/hello"}) {
		t.Errorf("config %+v", config)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	var sbom []byte
	for _, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		for name, e := range readTar(t, r) {
			names = append(names, name)
			if e.header.Uid != 0 || e.header.Mode&0o022 != 0 {
				t.Errorf("%s: uid %d mode %o: another than root may write it", name, e.header.Uid, e.header.Mode)
			}
			if strings.HasSuffix(name, ".cdx.json") {
				sbom = e.data
			}
		}
	}
	slices.Sort(names)
	if want := []string{"etc/", "etc/ssl/", "etc/ssl/certs/", "etc/ssl/certs/ca-certificates.crt", "hello", "usr/", "usr/share/", "usr/share/sbom/", "usr/share/sbom/hello.cdx.json"}; !slices.Equal(names, want) {
		t.Errorf("the image holds %q, want %q", names, want)
	}
	if !bytes.Contains(sbom, []byte(`"name": "std"`)) {
		t.Errorf("the SBOM does not name the standard library: %s", sbom)
	}
}

func TestSBOM(t *testing.T) {
	bom := document(&buildinfo.BuildInfo{
		GoVersion: "go1.26.8", Path: "example.com/hello/cmd/hello", Main: debug.Module{Path: "example.com/hello"},
		Deps: []*debug.Module{
			{Path: "example.com/a", Version: "v1.0.0"},
			{Path: "example.com/b", Version: "v1.0.0", Replace: &debug.Module{Path: "example.com/fork", Version: "v1.0.1"}},
		},
	}, "hello", "1.2.3")
	if got := bom.Metadata.Component.PackageURL; got != "pkg:golang/example.com/hello/cmd/hello@1.2.3" {
		t.Errorf("the program is %s", got)
	}
	var got []string
	for _, c := range *bom.Components {
		got = append(got, c.PackageURL)
	}
	want := []string{"pkg:golang/std@go1.26.8", "pkg:golang/example.com/a@v1.0.0", "pkg:golang/example.com/fork@v1.0.1"}
	if !slices.Equal(got, want) {
		t.Errorf("components %q, want %q", got, want)
	}
}

func TestLayerRefusesRelativePaths(t *testing.T) {
	if _, err := Layer(File{Path: "etc/passwd"}); err == nil {
		t.Error("no error")
	}
}

func TestSBOMOfNoProgram(t *testing.T) {
	if _, err := SBOM([]byte("#!/bin/sh\n"), "x", "1"); err == nil {
		t.Error("no error")
	}
}

type entry struct {
	header *tar.Header
	data   []byte
}

func readTar(t *testing.T, r io.Reader) map[string]entry {
	t.Helper()
	entries := map[string]entry{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		entries[h.Name] = entry{h, data}
	}
}

// Every root in the file is a certificate that Go's verifier takes, and the
// trust of none is under a condition that a file cannot say.
func TestRoots(t *testing.T) {
	roots, err := Roots()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for rest := roots; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if c, err := x509.ParseCertificate(block.Bytes); err != nil || !c.IsCA {
			t.Errorf("root %d: %v", n, err)
		}
	}
	if n < 80 || len(roots) > 400<<10 {
		t.Errorf("%d roots in %d bytes", n, len(roots))
	}
	t.Logf("%d roots, %d bytes", n, len(roots))
}
