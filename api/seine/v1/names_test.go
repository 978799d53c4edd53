package seinev1

import (
	"errors"
	"strings"
	"testing"
)

func TestParseAnswerName(t *testing.T) {
	for _, name := range []string{
		"http/80/billing-service", "http/65535/a.b.svc.cluster.local", "http/1/10.0.0.1",
		"http/8080/::1", "http/8080/2001:db8::7", "http/80/_dmarc.example.com",
		"addr/10.0.0.1:80", "addr/[2001:db8::7]:443",
	} {
		n, err := ParseAnswerName(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if n.String() != name {
			t.Errorf("%s: read as %s", name, n)
		}
	}
	for _, name := range []string{
		"", "*", "self", "http", "http/", "http/80", "http/80/", "http//a", "http/0/a", "http/080/a", "http/65536/a",
		"http/80/A", "http/80/a..b", "http/80/.a", "http/80/a.", "http/80/a/b", "http/80/a b", "http/80/a\x00", "http/80/*.a",
		"http/80/fe80::1%eth0", "http/80/[::1]", "http/80/:", "http/+1/a", "http/80/" + strings.Repeat("a", 254),
		"addr/10.0.0.1", "addr/10.0.0.1:0", "addr/10.0.0.01:1", "addr/[::ffff:10.0.0.1]:80", "addr/[fe80::1%lo]:80",
		"addr/[2001:DB8::7]:443", "addr/a:80", "addr/10.0.0.1:080", "tcp/80/a", strings.Repeat("a", MaxName+1),
	} {
		if n, err := ParseAnswerName(name); !errors.Is(err, ErrName) {
			t.Errorf("%q was taken as %v (%v)", name, n, err)
		}
	}
}

func TestParseKeys(t *testing.T) {
	for _, key := range []string{"a.default.svc.cluster.local/80", "*.example.com/443"} {
		host, port, err := ParseServiceKey(key)
		if err != nil || ServiceKey(host, uint32(port)) != key {
			t.Errorf("%s: %s %d %v", key, host, port, err)
		}
		if got, err := ParseCollectionName(CollectionName(key)); err != nil || got != key {
			t.Errorf("%s/*: %s %v", key, got, err)
		}
		for _, id := range []string{"default/billing-v1-1", "10.0.0.1:80", "a"} {
			gotKey, gotID, err := ParseEndpointName(EndpointName(key, id))
			if err != nil || gotKey != key || gotID != id {
				t.Errorf("%s of %s: %s %s %v", id, key, gotKey, gotID, err)
			}
		}
	}
	for _, key := range []string{"", "/", "a", "a/", "/80", "a/0", "a/80/", "*/80", "*.*.a/80", "::1/80", "A/80"} {
		if _, _, err := ParseServiceKey(key); err == nil {
			t.Errorf("key %q was taken", key)
		}
		if _, err := ParseCollectionName(key + "/*"); err == nil {
			t.Errorf("collection %q was taken", key+"/*")
		}
	}
	for _, name := range []string{"", "a", "a/80", "a/80/", "a/80/*", "a/80/x y", "a/80/\n", "a/x/y"} {
		if _, _, err := ParseEndpointName(name); err == nil {
			t.Errorf("endpoint %q was taken", name)
		}
	}
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"http/80/a", "http/80/::1", "tls/443/a.b", "tls/443/10.0.0.1", "tls/443/*.a", "addr/10.0.0.1:80", "addr/[::1]:80", "a.b/80", "*.a/80", "a/80/*", "a/80/ns/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseAnswerName(s); err == nil {
			if n.String() != s || n.Port == 0 {
				t.Fatalf("%q is %q again", s, n)
			}
		}
		if host, port, err := ParseServiceKey(s); err == nil && ServiceKey(host, uint32(port)) != s {
			t.Fatalf("%q is %q again", s, ServiceKey(host, uint32(port)))
		}
		if key, err := ParseCollectionName(s); err == nil && CollectionName(key) != s {
			t.Fatalf("%q is %q again", s, CollectionName(key))
		}
		if key, id, err := ParseEndpointName(s); err == nil && EndpointName(key, id) != s {
			t.Fatalf("%q is %q again", s, EndpointName(key, id))
		}
	})
}
