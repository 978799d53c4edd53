package config

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// decoder reads one object into a Go or protobuf type, strictly: each field
// that the type does not have, each value of a wrong type and each key written
// twice is a finding with its path and line.
type decoder struct {
	b       *builder
	obj     *object
	visited int
	bad     bool            // something was reported that refuses the object
	failed  map[string]bool // paths of which something was reported
	// known says which fields the data plane implements; nil: all.
	known *fieldSet
	// unsupported are the paths of the others that are set and ask for something.
	unsupported []string
	// strict is what is said of the others where they refuse the object; "": see lacks.
	strict string
}

func (d *decoder) fail(code, path string, n *yaml.Node, format string, args ...any) {
	d.bad = true
	if d.failed[path] && code != codeDuplicateKey {
		return // one mistake, one message
	}
	if d.failed == nil {
		d.failed = map[string]bool{}
	}
	d.failed[path] = true
	f := d.b.findingAt(d.obj, code, Error, path, fmt.Sprintf(format, args...), n)
	f.Refused = true
	d.b.report(f)
}

// visit counts nodes, so that aliases that expand without end are found.
func (d *decoder) visit(n *yaml.Node, path string, depth int) bool {
	d.visited++
	if d.visited > 10_000+d.obj.size || depth > maxDepth {
		if !d.bad {
			d.fail(codeLimit, path, n, "nested too deeply or too large: write it without so many levels and aliases")
		}
		d.bad = true
		return false
	}
	return true
}

func describe(n *yaml.Node) string {
	switch {
	case isNull(n):
		return "null"
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!int", "!!float":
		return "the number " + n.Value
	case "!!bool":
		return "the boolean " + n.Value
	}
	return "the text " + strconv.Quote(clip(n.Value))
}

func clip(s string) string {
	if len(s) > 60 {
		return s[:57] + "..."
	}
	return s
}

// mapping hands each entry of n to f; it reports what is no mapping.
func (d *decoder) mapping(n *yaml.Node, path string, f func(entry)) {
	if n.Kind != yaml.MappingNode {
		d.fail(codeType, path, n, "must be a mapping (key: value), not %s", describe(n))
		return
	}
	list, dup := entries(n)
	if dup != nil {
		d.fail(codeDuplicateKey, sub(path, dup.Value), dup, "the key %q is written twice: remove one", clip(dup.Value))
	}
	for _, e := range list {
		f(e)
	}
}

func (d *decoder) sequence(n *yaml.Node, path string, f func(int, *yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		d.fail(codeType, path, n, "must be a list (each item begins with \"- \"), not %s", describe(n))
		return
	}
	for i, c := range n.Content {
		f(i, resolve(c))
	}
}

func (d *decoder) str(n *yaml.Node, path string) (string, bool) {
	if n.Kind == yaml.ScalarNode {
		switch n.ShortTag() {
		case "!!str", "!!timestamp":
			return n.Value, true
		case "!!int", "!!float", "!!bool":
			d.fail(codeType, path, n, "must be text, not %s: quote it: %q", describe(n), n.Value)
			return "", false
		}
	}
	d.fail(codeType, path, n, "must be text, not %s", describe(n))
	return "", false
}

func (d *decoder) boolean(n *yaml.Node, path string) (bool, bool) {
	if n.Kind == yaml.ScalarNode && n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) == 0 {
		switch strings.ToLower(n.Value) {
		case "true", "yes", "on", "y":
			return true, true
		case "false", "no", "off", "n":
			return false, true
		}
	}
	d.fail(codeType, path, n, "must be true or false, not %s", describe(n))
	return false, false
}

func (d *decoder) integer(n *yaml.Node, path string, bits int, unsigned bool) (int64, uint64, bool) {
	if n.Kind == yaml.ScalarNode {
		s := n.Value
		if unsigned {
			if v, err := strconv.ParseUint(s, 0, bits); err == nil {
				return int64(v), v, true
			}
		} else if v, err := strconv.ParseInt(s, 0, bits); err == nil {
			return v, uint64(v), true
		}
		if _, err := strconv.ParseFloat(s, 64); err == nil {
			if unsigned && strings.HasPrefix(s, "-") {
				d.fail(codeType, path, n, "must not be negative (it is %s)", s)
			} else {
				d.fail(codeType, path, n, "must be a whole number of %d bits, not %s", bits, clip(s))
			}
			return 0, 0, false
		}
	}
	d.fail(codeType, path, n, "must be a whole number, not %s", describe(n))
	return 0, 0, false
}

func (d *decoder) float(n *yaml.Node, path string) (float64, bool) {
	if n.Kind == yaml.ScalarNode {
		if v, err := strconv.ParseFloat(n.Value, 64); err == nil {
			return v, true
		}
	}
	d.fail(codeType, path, n, "must be a number, not %s", describe(n))
	return 0, false
}

// scalarText is a string for which YAML's numbers and booleans will do too.
type scalarText string

// any turns n into what encoding/json makes of the same text.
func (d *decoder) any(n *yaml.Node, path string, depth int) any {
	if !d.visit(n, path, depth) || isNull(n) {
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		d.mapping(n, path, func(e entry) { m[e.key] = d.any(e.value, sub(path, e.key), depth+1) })
		return m
	case yaml.SequenceNode:
		list := []any{}
		d.sequence(n, path, func(i int, c *yaml.Node) { list = append(list, d.any(c, item(path, i), depth+1)) })
		return list
	}
	switch n.ShortTag() {
	case "!!int", "!!float":
		if v, err := strconv.ParseFloat(n.Value, 64); err == nil && json.Valid([]byte(n.Value)) {
			return v
		}
	case "!!bool":
		return strings.EqualFold(n.Value, "true")
	}
	return n.Value
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// value decodes n into v by v's json tags.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string, depth int) {
	if !d.visit(n, path, depth) || isNull(n) {
		return
	}
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.value(n, v.Elem(), path, depth)
		return
	}
	if v.CanAddr() && v.Addr().Type().Implements(unmarshaler) {
		raw, err := json.Marshal(d.any(n, path, depth))
		if err == nil {
			err = json.Unmarshal(raw, v.Addr().Interface())
		}
		if err != nil {
			d.fail(codeType, path, n, "%s cannot be read: %v", describe(n), err)
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		fields := d.b.structFields(v.Type())
		d.mapping(n, path, func(e entry) {
			index, ok := fields[e.key]
			if !ok {
				names := make([]string, 0, len(fields))
				for name := range fields {
					names = append(names, name)
				}
				d.unknown(path, e, names)
				return
			}
			d.value(e.value, v.FieldByIndex(index), sub(path, e.key), depth+1)
		})
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		d.mapping(n, path, func(e entry) {
			value := reflect.New(v.Type().Elem()).Elem()
			d.value(e.value, value, sub(path, e.key), depth+1)
			v.SetMapIndex(reflect.ValueOf(e.key).Convert(v.Type().Key()), value)
		})
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			s, _ := d.str(n, path)
			v.SetBytes([]byte(s))
			return
		}
		d.sequence(n, path, func(i int, c *yaml.Node) {
			value := reflect.New(v.Type().Elem()).Elem()
			d.value(c, value, item(path, i), depth+1)
			v.Set(reflect.Append(v, value))
		})
	case reflect.String:
		if v.Type() == reflect.TypeFor[scalarText]() && n.Kind == yaml.ScalarNode {
			v.SetString(n.Value)
			return
		}
		if s, ok := d.str(n, path); ok {
			v.SetString(s)
		}
	case reflect.Bool:
		b, _ := d.boolean(n, path)
		v.SetBool(b)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		i, _, _ := d.integer(n, path, v.Type().Bits(), false)
		v.SetInt(i)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		_, u, _ := d.integer(n, path, v.Type().Bits(), true)
		v.SetUint(u)
	case reflect.Float32, reflect.Float64:
		f, _ := d.float(n, path)
		v.SetFloat(f)
	case reflect.Interface:
		if x := d.any(n, path, depth); x != nil {
			v.Set(reflect.ValueOf(x))
		}
	default:
		d.fail(codeType, path, n, "cannot be set from a file")
	}
}

func (d *decoder) unknown(path string, e entry, names []string) {
	where := "here"
	if path != "" {
		where = "in " + path
	}
	d.fail(codeUnknownField, sub(path, e.key), e.keyNode, "there is no field %q %s of a %s%s", clip(e.key), where, d.obj.ref.Kind, didYouMean(e.key, names))
}

// structFields are the indexes of t's fields by their JSON names.
func (b *builder) structFields(t reflect.Type) map[string][]int {
	if fields, ok := b.types[t]; ok {
		return fields
	}
	out := map[string][]int{}
	if b.types == nil {
		b.types = map[reflect.Type]map[string][]int{}
	}
	b.types[t] = out
	for _, f := range reflect.VisibleFields(t) {
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" || f.Anonymous && (name == "" || strings.Contains(opts, "inline")) {
			continue
		}
		if name == "" {
			name = f.Name
		}
		if _, taken := out[name]; !taken || len(f.Index) == 1 {
			out[name] = f.Index
		}
	}
	return out
}
