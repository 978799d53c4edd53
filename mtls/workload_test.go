package mtls

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"
)

func TestWorkload(t *testing.T) {
	with := func(e ...pkix.Extension) *x509.Certificate { return &x509.Certificate{Extensions: e} }
	bad := func(value string) pkix.Extension { return pkix.Extension{Id: workloadOID, Value: []byte(value)} }
	for name, tc := range map[string]struct {
		leaf *x509.Certificate
		want string
		err  bool
	}{
		"none":      {with(), "", false},
		"one":       {with(WorkloadExtension("default/web-1")), "default/web-1", false},
		"empty":     {with(WorkloadExtension("")), "", true},
		"nothing":   {with(bad("")), "", true},
		"cut":       {with(bad("\x0c\x05abc")), "", true},
		"more":      {with(bad("\x0c\x01ab")), "", true},
		"no string": {with(bad("\x02\x01\x01")), "", true},
	} {
		if got, err := Workload(tc.leaf); got != tc.want || (err != nil) != tc.err {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func FuzzWorkload(f *testing.F) {
	f.Add(WorkloadExtension("default/web-1").Value)
	f.Add([]byte("\x0c\x7f"))
	f.Fuzz(func(t *testing.T, value []byte) {
		leaf := &x509.Certificate{Extensions: []pkix.Extension{{Id: workloadOID, Value: value}}}
		if got, err := Workload(leaf); err == nil && string(WorkloadExtension(got).Value) != string(value) {
			t.Errorf("%x is %q, which is written otherwise", value, got)
		}
	})
}
