package ui

import (
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
)

func get(t *testing.T, path string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r *http.Response) []byte {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var named = regexp.MustCompile(`(?:src|href)="\./([^"]+)"`)

// The page is whole: what it names is there, of the right type, and loaded from
// nowhere else.
func TestPageIsWhole(t *testing.T) {
	r := get(t, "/")
	page := body(t, r)
	if r.StatusCode != http.StatusOK || !bytes.Contains(page, []byte(`<div id="app">`)) {
		t.Fatalf("/ = %d %s", r.StatusCode, page)
	}
	if r.Header.Get("Content-Security-Policy") != policy || r.Header.Get("X-Content-Type-Options") != "nosniff" || r.Header.Get("Cache-Control") != "no-cache" {
		t.Errorf("headers of /: %v", r.Header)
	}
	if bytes.Contains(page, []byte("://")) || bytes.Contains(page, []byte("<style")) || bytes.Contains(page, []byte(" style=")) {
		t.Errorf("the page names another address, or has a style that the policy refuses:\n%s", page)
	}
	files := named.FindAllSubmatch(page, -1)
	if len(files) < 3 { // script, style, icon
		t.Fatalf("the page names %q", files)
	}
	for _, f := range files {
		name := "/" + string(f[1])
		r := get(t, name)
		if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") == "" || len(body(t, r)) == 0 {
			t.Errorf("%s = %d %s", name, r.StatusCode, r.Header.Get("Content-Type"))
		}
		if forever := strings.Contains(r.Header.Get("Cache-Control"), "immutable"); forever != strings.HasPrefix(name, "/assets/") {
			t.Errorf("%s: Cache-Control %q", name, r.Header.Get("Cache-Control"))
		}
	}
}

func TestAnswers(t *testing.T) {
	tag := get(t, "/").Header.Get("ETag")
	for _, c := range []struct {
		name, method, path string
		header             []string
		want               int
	}{
		{"what is not there", http.MethodGet, "/assets/no.js", nil, http.StatusNotFound},
		{"a folder", http.MethodGet, "/assets/", nil, http.StatusNotFound},
		{"out of the folder", http.MethodGet, "/../ui.go", nil, http.StatusNotFound},
		{"a head", http.MethodHead, "/", nil, http.StatusOK},
		{"a change", http.MethodPost, "/", nil, http.StatusMethodNotAllowed},
		{"what the browser has", http.MethodGet, "/", []string{"If-None-Match", tag}, http.StatusNotModified},
		{"what it had before", http.MethodGet, "/", []string{"If-None-Match", `"old"`}, http.StatusOK},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(c.method, "/", nil)
			r.URL.Path = c.path
			for i := 0; i+1 < len(c.header); i += 2 {
				r.Header.Set(c.header[i], c.header[i+1])
			}
			w := httptest.NewRecorder()
			Handler().ServeHTTP(w, r)
			if w.Code != c.want {
				t.Errorf("%s %s = %d, want %d", c.method, c.path, w.Code, c.want)
			}
			if c.method == http.MethodHead && w.Body.Len() > 0 {
				t.Error("an answer to HEAD has a body")
			}
		})
	}
}

func TestCompressed(t *testing.T) {
	plain := body(t, get(t, "/"))
	r := get(t, "/", "Accept-Encoding", "br, gzip")
	if r.Header.Get("Content-Encoding") != "gzip" || r.Header.Get("Vary") != "Accept-Encoding" {
		t.Fatalf("headers: %v", r.Header)
	}
	z, err := gzip.NewReader(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	unpacked, err := io.ReadAll(z)
	if err != nil || !bytes.Equal(unpacked, plain) {
		t.Errorf("unpacked: %v, %d bytes of %d", err, len(unpacked), len(plain))
	}
}

// Everything that a browser loads, as it travels. The promise is 500 KB; 150 is
// what we hold ourselves to.
func TestSmall(t *testing.T) {
	total := 0
	err := fs.WalkDir(dist, "dist", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasSuffix(name, ".txt") {
			return err
		}
		b, err := dist.ReadFile(name)
		f := load(name, b)
		if f.packed != nil {
			b = f.packed
		}
		total += len(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes, compressed", total)
	if total > 150_000 {
		t.Errorf("the dashboard is %d bytes, compressed; more than 150,000", total)
	}
}

// The browser's tests serve dist/ by themselves; they shall do it under the same
// policy.
func TestPolicyOfTheBrowserTests(t *testing.T) {
	b, err := os.ReadFile("test/browser.ts")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte(`"`+policy+`"`)) {
		t.Errorf("test/browser.ts has another policy than %s", policy)
	}
}
