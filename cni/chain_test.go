package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

var settings = Settings{Kubeconfig: "/etc/cni/net.d/seine-cni.kubeconfig", Skip: []string{"kube-system"}}

const entry = `{"type":"seine-cni","kubeconfig":"/etc/cni/net.d/seine-cni.kubeconfig","skipNamespaces":["kube-system"]}`

func TestInsert(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"at the end":         {`{"cniVersion":"0.3.1","name":"n","plugins":[{"type":"bridge"}]}`, `{"cniVersion":"0.3.1","name":"n","plugins":[{"type":"bridge"},` + entry + `]}`},
		"no longer last":     {`{"name":"n","plugins":[{"type":"bridge"},` + entry + `,{"type":"portmap"}]}`, `{"name":"n","plugins":[{"type":"bridge"},{"type":"portmap"},` + entry + `]}`},
		"twice":              {`{"name":"n","plugins":[` + entry + `,{"type":"bridge"},` + entry + `]}`, `{"name":"n","plugins":[{"type":"bridge"},` + entry + `]}`},
		"other settings":     {`{"name":"n","plugins":[{"type":"bridge"},{"type":"seine-cni"}]}`, `{"name":"n","plugins":[{"type":"bridge"},` + entry + `]}`},
		"what nobody knows":  {`{"name":"n","future":{"b":1e400,"a":"<&>"},"plugins":[{"type":"x","mtu":9007199254740993}]}`, `{"future":{"b":1e400,"a":"<&>"},"name":"n","plugins":[{"type":"x","mtu":9007199254740993},` + entry + `]}`},
		"keys in other case": {`{"name":"n","plugins":[{"type":"bridge","Type":"seine-cni"}]}`, `{"name":"n","plugins":[{"type":"bridge","Type":"seine-cni"},` + entry + `]}`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Insert([]byte(c.in), settings)
			if err != nil {
				t.Fatal(err)
			}
			if !same(got, []byte(c.want)) {
				t.Errorf("got %s\nwant %s", got, c.want)
			}
			again, err := Insert(got, settings)
			if err != nil || !bytes.Equal(again, got) {
				t.Errorf("again: %v, %s", err, again)
			}
		})
	}
}

// TestInsertInPlace: what is as it should be stays to the byte.
func TestInsertInPlace(t *testing.T) {
	text := `{ "name":"n",  "plugins":[ {"type":"bridge"}, ` + strings.ReplaceAll(entry, ",", " , ") + `] }`
	if got, err := Insert([]byte(text), settings); err != nil || string(got) != text {
		t.Errorf("%v: %s", err, got)
	}
}

func TestRemove(t *testing.T) {
	before := `{"name":"n","plugins":[{"type":"bridge"}]}`
	with, err := Insert([]byte(before), settings)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Remove(with); err != nil || !same(got, []byte(before)) {
		t.Errorf("%v: %s", err, got)
	}
	if got, err := Remove([]byte(before)); err != nil || string(got) != before {
		t.Errorf("%v: %s", err, got)
	}
	if got, err := Remove([]byte(`{"name":"n","plugins":[` + entry + `]}`)); err != nil || !same(got, []byte(`{"name":"n","plugins":[]}`)) {
		t.Errorf("%v: %s", err, got)
	}
}

func TestMalformed(t *testing.T) {
	for name, text := range map[string]string{
		"empty":           "",
		"half written":    `{"name":"n","plugins":[{"type":"bri`,
		"no list":         `{"name":"n","type":"bridge"}`,
		"empty list":      `{"name":"n","plugins":[]}`,
		"list of strings": `{"name":"n","plugins":["bridge"]}`,
		"null plugin":     `{"name":"n","plugins":[null]}`,
		"no type":         `{"name":"n","plugins":[{"Type":"bridge"}]}`,
		"type a number":   `{"name":"n","plugins":[{"type":1}]}`,
		"no name":         `{"plugins":[{"type":"bridge"}]}`,
		"null":            `null`,
		"an array":        `[]`,
		"two values":      `{"name":"n","plugins":[{"type":"bridge"}]} {}`,
		"ours alone":      `{"name":"n","plugins":[` + entry + `]}`,
		"too long":        `{"name":"n","plugins":[{"type":"bridge"}]}` + strings.Repeat(" ", maxChain),
	} {
		if got, err := Insert([]byte(text), settings); !errors.Is(err, ErrChain) || got != nil {
			t.Errorf("%s: %v, %s", name, err, got)
		}
	}
}

func FuzzInsert(f *testing.F) {
	f.Add([]byte(`{"name":"n","plugins":[{"type":"bridge"}]}`))
	f.Add([]byte(`{"name":"n","plugins":[` + entry + `,{"type":"a","x":[1e9,"<"]}]}`))
	f.Add([]byte(`{"name":"n","plugins":[null]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := Insert(text, settings)
		if err != nil {
			return
		}
		c, err := parseChain(got)
		if err != nil {
			if len(got) > maxChain {
				return // it grew beyond what is read
			}
			t.Fatalf("%v: %s", err, got)
		}
		if c.own() != 1 || c.types[len(c.types)-1] != Name || !json.Valid(got) {
			t.Fatalf("not once at the end: %s", got)
		}
		without, err := Remove(got)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Insert(without, settings); err != nil || !same(again, got) {
			t.Fatalf("%v: %s became %s", err, got, again)
		}
	})
}
