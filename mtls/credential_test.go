package mtls

import (
	"os"
	"path/filepath"
	"testing"
)

// TestCredentialFiles: a Secret's keys have the names of kubernetes.io/tls or
// those of Istio's generic ones, each for itself.
func TestCredentialFiles(t *testing.T) {
	for _, c := range []struct {
		have    []string
		mutual  bool
		ca, crt string
		key     string
	}{
		{[]string{"ca.crt", "tls.crt", "tls.key"}, true, "ca.crt", "tls.crt", "tls.key"},
		{[]string{"cacert", "cert", "key"}, true, "cacert", "cert", "key"},
		{[]string{"cacert", "tls.crt", "tls.key"}, true, "cacert", "tls.crt", "tls.key"},
		{[]string{"ca.crt", "cacert"}, false, "ca.crt", "", ""},
		{nil, true, "ca.crt", "tls.crt", "tls.key"}, // what is missing is named
	} {
		dir := t.TempDir()
		for _, n := range c.have {
			if err := os.WriteFile(filepath.Join(dir, n), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got := Origin{Begin: true, Credential: dir, Mutual: c.mutual, CA: "/elsewhere"}.files()
		for _, x := range [][2]string{{got.CA, c.ca}, {got.Certificate, c.crt}, {got.Key, c.key}} {
			want := x[1]
			if want != "" {
				want = filepath.Join(dir, want)
			}
			if x[0] != want {
				t.Errorf("%v: %q, want %q", c.have, x[0], want)
			}
		}
	}
	if got := (Origin{CA: "/a"}).files(); got != (Origin{CA: "/a"}) {
		t.Errorf("%+v", got)
	}
}
