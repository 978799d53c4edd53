// Package ui is the web dashboard: the files of dist/, which Vite makes from
// src/, embedded and served. It holds no data: the pages ask the control plane's
// API under /api/ of the address that they come from.
//
// dist/ is committed, so that Go alone builds the programs
// (docs/decisions/018-dashboard-built-and-committed.md).
package ui

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
)

//go:embed all:dist
var dist embed.FS

// policy lets the pages load what this server gives, and nothing else: no
// script or style written into a page, no frame around it, no other address.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; worker-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// file is one file of dist/ as it is served.
type file struct {
	body, packed []byte // packed: gzip, nil if it is not smaller
	kind, tag    string
	forever      bool // its name changes with its content
}

// Handler serves the dashboard: GET and HEAD of / and of what the page names.
// It is for the whole of "/"; what it does not have is 404. Who may ask is the
// caller's to decide, as for the API.
func Handler() http.Handler {
	files := map[string]*file{}
	err := fs.WalkDir(dist, "dist", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		body, err := dist.ReadFile(name)
		if err != nil {
			return err
		}
		files[strings.TrimPrefix(name, "dist")] = load(name, body)
		return nil
	})
	if err != nil {
		panic(fmt.Sprintf("ui: read an embedded file: %v", err)) // an embed.FS has no I/O that could fail
	}
	files["/"] = files["/index.html"]
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := files[r.URL.Path]
		switch {
		case f == nil:
			http.NotFound(w, r)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "the dashboard's files are only read", http.StatusMethodNotAllowed)
		default:
			f.serve(w, r)
		}
	})
}

func load(name string, body []byte) *file {
	sum := sha256.Sum256(body)
	f := &file{
		body:    body,
		kind:    mime.TypeByExtension(path.Ext(name)),
		tag:     `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`,
		forever: strings.HasPrefix(name, "dist/assets/"),
	}
	// The machine's own table of types is not to be relied on.
	if t := types[path.Ext(name)]; t != "" {
		f.kind = t
	}
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	_, _ = z.Write(body)
	_ = z.Close()
	if b.Len() < len(body) {
		f.packed = b.Bytes()
	}
	return f
}

var types = map[string]string{
	".css": "text/css; charset=utf-8", ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8",
	".svg": "image/svg+xml", ".txt": "text/plain; charset=utf-8",
}

func (f *file) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Vary", "Accept-Encoding")
	h.Set("ETag", f.tag)
	if f.forever {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		h.Set("Cache-Control", "no-cache") // asked again each time: a newer seined has newer pages
	}
	if r.Header.Get("If-None-Match") == f.tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body := f.body
	if f.packed != nil && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		body = f.packed
	}
	h.Set("Content-Type", f.kind)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(body)
	}
}
