// Package cni redirects pods' connections from outside the pods: as a plugin at
// the end of a node's CNI chain, and as the program that keeps it there. Its
// specification is github.com/containernetworking/cni, SPEC.md.
package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Name is the plugin's type in a chain, and its program's file name.
const Name = "seine-cni"

// maxChain bounds a network configuration, in bytes.
const maxChain = 1 << 20

// Settings are the plugin's entry in a chain.
type Settings struct {
	Type string `json:"type"`
	// Kubeconfig is where the plugin finds how to ask the API server: a path
	// on the node.
	Kubeconfig string `json:"kubeconfig"`
	// Skip are namespaces whose pods are left alone without asking, so that
	// what the API server itself waits for can start.
	Skip []string `json:"skipNamespaces,omitempty"`
}

// ErrChain is in every error about a network configuration that cannot be read.
var ErrChain = errors.New("not a network configuration list")

// Insert returns the configuration list text with the plugin's entry at its
// end, and text itself if it is there already, as it should be. Everything
// else stays as it was, but for white space and the order of the list's keys.
func Insert(text []byte, s Settings) ([]byte, error) {
	c, err := parseChain(text)
	if err != nil {
		return nil, err
	}
	if len(c.plugins) == c.own() {
		return nil, fmt.Errorf("%w: no plugin in it makes a network", ErrChain)
	}
	s.Type = Name
	entry, err := encode(s)
	if err != nil {
		return nil, err
	}
	last := len(c.plugins) - 1
	if c.own() == 1 && same(c.plugins[last], entry) {
		return text, nil
	}
	c.drop()
	c.plugins = append(c.plugins, entry)
	return c.encode()
}

// Remove returns text without the plugin's entry, and text itself if it has none.
func Remove(text []byte) ([]byte, error) {
	c, err := parseChain(text)
	if err != nil {
		return nil, err
	}
	if c.own() == 0 {
		return text, nil
	}
	c.drop()
	return c.encode()
}

// chain is a configuration list whose other parts are not looked into: numbers
// stay as they were written, and so do keys that later versions bring.
type chain struct {
	top     map[string]json.RawMessage
	plugins []json.RawMessage
	types   []string
}

func parseChain(text []byte) (*chain, error) {
	if len(text) > maxChain {
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrChain, maxChain)
	}
	c := &chain{}
	if err := json.Unmarshal(text, &c.top); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrChain, err)
	}
	var name string
	if err := json.Unmarshal(c.top["name"], &name); err != nil || name == "" {
		return nil, fmt.Errorf("%w: it has no name", ErrChain)
	}
	if err := json.Unmarshal(c.top["plugins"], &c.plugins); err != nil || len(c.plugins) == 0 {
		return nil, fmt.Errorf("%w: it has no list of plugins", ErrChain)
	}
	for i, p := range c.plugins {
		var keys map[string]json.RawMessage // not a struct: its keys would match in any case
		var kind string
		if json.Unmarshal(p, &keys) != nil || json.Unmarshal(keys["type"], &kind) != nil || kind == "" {
			return nil, fmt.Errorf("%w: plugin %d has no type", ErrChain, i+1)
		}
		c.types = append(c.types, kind)
	}
	return c, nil
}

// own counts the plugin's entries.
func (c *chain) own() (n int) {
	for _, t := range c.types {
		if t == Name {
			n++
		}
	}
	return n
}

func (c *chain) drop() {
	for i := len(c.types) - 1; i >= 0; i-- {
		if c.types[i] == Name {
			c.plugins, c.types = slices.Delete(c.plugins, i, i+1), slices.Delete(c.types, i, i+1)
		}
	}
}

func (c *chain) encode() ([]byte, error) {
	if c.plugins == nil {
		c.plugins = []json.RawMessage{}
	}
	plugins, err := encode(c.plugins)
	if err != nil {
		return nil, err
	}
	c.top["plugins"] = plugins
	compact, err := encode(c.top)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, compact, "", "  "); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrChain, err)
	}
	return append(out.Bytes(), '\n'), nil
}

// encode is json.Marshal without escapes for HTML: nothing here is a web page,
// and other people's text stays as it is.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode network configuration: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// same compares without white space.
func same(a, b []byte) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}
