package cni

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestKubeconfig(t *testing.T) {
	want := Access{"https://[fd00::1]:443", []byte("PEM"), "secret"}
	text, err := want.Kubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseKubeconfig(text)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	for name, change := range map[string]func(string) string{
		"no JSON":    func(s string) string { return "a: b" },
		"no TLS":     func(s string) string { return strings.Replace(s, "https:", "http:", 1) },
		"no token":   func(s string) string { return strings.Replace(s, `"secret"`, `""`, 1) },
		"no CA":      func(s string) string { return strings.Replace(s, `"UEVN"`, `""`, 1) },
		"no cluster": func(s string) string { return strings.Replace(s, `"clusters"`, `"other"`, 1) },
		"half":       func(s string) string { return s[:len(s)/2] },
	} {
		_, err := ParseKubeconfig([]byte(change(string(text))))
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseKubeconfig(f *testing.F) {
	text, _ := Access{"https://h:1", []byte("x"), "t"}.Kubeconfig()
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := ParseKubeconfig(text)
		if err != nil {
			return
		}
		again, err := a.Kubeconfig()
		if err != nil {
			t.Fatal(err)
		}
		if b, err := ParseKubeconfig(again); err != nil || !cmp.Equal(a, b) {
			t.Fatalf("%v: %v became %v", err, a, b)
		}
	})
}

func TestPod(t *testing.T) {
	// The namespace that the tests run in begins with its loopback device down.
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u1"}}
	answers := map[string]func(w http.ResponseWriter){
		"/api/v1/namespaces/shop/pods/web":     func(w http.ResponseWriter) { json.NewEncoder(w).Encode(pod) },
		"/api/v1/namespaces/shop/pods/other":   func(w http.ResponseWriter) { json.NewEncoder(w).Encode(pod) },
		"/api/v1/namespaces/shop/pods/expired": func(w http.ResponseWriter) { w.WriteHeader(http.StatusUnauthorized) },
		"/api/v1/namespaces/shop/pods/moved": func(w http.ResponseWriter) {
			w.Header().Set("Location", "/api/v1/namespaces/shop/pods/web")
			w.WriteHeader(http.StatusFound)
		},
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		answer, ok := answers[r.URL.EscapedPath()]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		answer(w)
	}))
	defer server.Close()
	a := Access{server.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), "secret"}
	for name, want := range map[string]string{
		"web": "", "other": "is not that pod", "expired": "DaemonSet seine-cni", "gone": "404", "moved": "302", "../../../secrets/x": "404",
	} {
		got, err := a.Pod(t.Context(), "shop", name)
		if want == "" {
			if err != nil || got.UID != "u1" {
				t.Errorf("%s: %v, %v", name, err, got)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret\"") {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := a
	other.CA = []byte("none")
	if _, err := other.Pod(t.Context(), "shop", "web"); err == nil {
		t.Error("asked without a certificate authority")
	}
}
