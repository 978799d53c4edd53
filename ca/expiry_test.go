package ca

import (
	"crypto/elliptic"
	"crypto/x509"
	"strings"
	"testing"
	"time"
)

func TestExpires(t *testing.T) {
	const day = 24 * time.Hour
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		life, left time.Duration
		want       int // -1: nothing is said
		text       string
	}{
		{3650 * day, 31 * day, -1, ""},
		{3650 * day, 30 * day, 30, "ends in 30 days"},
		{3650 * day, 8 * day, 30, "ends in 8 days"},
		{3650 * day, 7 * day, 7, "ends in 7 days"},
		{3650 * day, day, 1, "ends in 24h0m0s"},
		{3650 * day, time.Minute, 1, "ends in 1m0s"},
		{3650 * day, 0, 0, "has ended at 2030-01-01T00:00:00Z"},
		{3650 * day, -day, 0, "has ended"},
		// What is renewed by itself is told of only when that has failed.
		{30 * day, 11 * day, -1, ""},
		{30 * day, 9 * day, 30, "ends in 9 days"},
		{day, 12 * time.Hour, -1, ""},
		{day, 7 * time.Hour, 1, "ends in 7h0m0s"},
	} {
		end := now.Add(tc.left)
		got := Expires(now, "run seine ca rotate", map[string]*x509.Certificate{"root": {NotBefore: end.Add(-tc.life), NotAfter: end}})
		if tc.want < 0 {
			if len(got) > 0 {
				t.Errorf("%s of %s left: %v", tc.left, tc.life, got)
			}
			continue
		}
		if len(got) != 1 || got[0].Days != tc.want || !strings.Contains(got[0].String(), tc.text) || !strings.HasSuffix(got[0].String(), "run seine ca rotate") {
			t.Errorf("%s of %s left: %v", tc.left, tc.life, got)
		}
	}
}

// TestClockSkew: what is signed now is believed by whose clock is almost a minute late,
// and not by whose clock is past its end.
func TestClockSkew(t *testing.T) {
	a := openTest(t, func(o *Options) { o.Intermediate = true })
	now := time.Now()
	got, err := a.Sign(csrFor(t, ecKey(t, elliptic.P256()), nil), alice, "default/alice-1", time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(a.Bundle())
	for _, c := range got.certs[1:] {
		between.AddCert(c)
	}
	for skew, good := range map[time.Duration]bool{
		-Backdate + 2*time.Second: true, 0: true, 59 * time.Minute: true,
		-Backdate - 5*time.Second: false, time.Hour + 2*time.Second: false,
	} {
		_, err := got.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now.Add(skew), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if (err == nil) != good {
			t.Errorf("a clock %s off: %v", skew, err)
		}
	}
}
