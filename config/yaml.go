package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/seinemesh/seine/mesh"
)

// Bounds of one file. Beyond them it is refused: a configuration of ours never
// comes near, and what does would cost the control plane its memory.
const (
	MaxFileBytes = 16 << 20
	maxDepth     = 64   // of one document
	maxMerges    = 1000 // keys laid under one mapping by <<
	maxFindings  = 1000 // reported for one file
)

// object is one resource as it stands in a file.
type object struct {
	ref         mesh.Ref
	apiVersion  string
	group       string
	version     string
	labels      map[string]string
	annotations map[string]string
	generation  int64
	root        *yaml.Node // mapping; nil: see tree
	data        []byte     // that tree reads root from again
	kept        *Decoded   // what is known of it from before; nil: nothing
	subsets     int        // of a DestinationRule: how many it writes itself
	order       int        // position among all objects: earlier wins
	clustered   bool       // the kind has no namespace
	size        int        // bytes of its file: as many nodes are visited, and not many more
	bad         bool       // what every resource has is wrong: it is looked at, and refused
}

// tree is o as it is written. What is kept over Builds has no tree, which is many
// times as large as what was read from it, and it is read again where it is needed.
func (o *object) tree() *yaml.Node {
	if o.root == nil && o.data != nil {
		if docs, _, err := documents(File{Data: o.data}); err == nil && len(docs) == 1 {
			o.root = docs[0]
		}
	}
	return o.root
}

// entry is one key of a mapping.
type entry struct {
	key     string
	keyNode *yaml.Node
	value   *yaml.Node
}

// resolve follows an alias to what it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	for i := 0; n != nil && n.Kind == yaml.AliasNode && i < 8; i++ {
		n = n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool {
	return n == nil || n.Kind == 0 || n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// entries are the keys of a mapping in their order, merge keys (<<) laid under.
// dup is the first key that is written twice.
func entries(n *yaml.Node) (list []entry, dup *yaml.Node) {
	budget := maxMerges
	return mergedEntries(n, 0, &budget)
}

func mergedEntries(n *yaml.Node, depth int, budget *int) (list []entry, dup *yaml.Node) {
	seen := make(map[string]bool, len(n.Content)/2)
	var merged []entry
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := resolve(n.Content[i]), n.Content[i+1]
		if k.Kind == yaml.ScalarNode && k.Tag == "!!merge" && depth < 8 {
			from := []*yaml.Node{resolve(v)}
			if from[0] != nil && from[0].Kind == yaml.SequenceNode {
				from = from[0].Content
			}
			for _, m := range from {
				if m = resolve(m); m != nil && m.Kind == yaml.MappingNode && *budget > 0 {
					under, _ := mergedEntries(m, depth+1, budget)
					*budget -= 1 + len(under)
					merged = append(merged, under...)
				}
			}
			continue
		}
		name := k.Value
		if seen[name] {
			if dup == nil {
				dup = k
			}
			continue
		}
		seen[name] = true
		list = append(list, entry{name, k, resolve(v)})
	}
	for _, e := range merged {
		if !seen[e.key] {
			seen[e.key] = true
			list = append(list, e)
		}
	}
	return list, dup
}

func child(n *yaml.Node, key string) *yaml.Node {
	n = resolve(n)
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	list, _ := entries(n)
	for _, e := range list {
		if e.key == key {
			return e.value
		}
	}
	return nil
}

func text(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode || isNull(n) {
		return ""
	}
	return n.Value
}

var plainKey = regexp.MustCompile(`^[A-Za-z0-9_$][A-Za-z0-9_$-]*$`)

// sub is the path of a key under path.
func sub(path, key string) string {
	if !plainKey.MatchString(key) {
		return path + "[" + strconv.Quote(key) + "]"
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// item is the path of an element under path.
func item(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// segments takes a path apart again.
func segments(p string) []string {
	var out []string
	for p != "" {
		switch {
		case p[0] == '.':
			p = p[1:]
		case strings.HasPrefix(p, `["`):
			quoted, err := strconv.QuotedPrefix(p[1:])
			if err != nil {
				return out
			}
			key, _ := strconv.Unquote(quoted)
			out = append(out, key)
			p = strings.TrimPrefix(p[1+len(quoted):], "]")
		case p[0] == '[':
			n, rest, _ := strings.Cut(p[1:], "]")
			out = append(out, n)
			p = rest
		default:
			end := strings.IndexAny(p, ".[")
			if end < 0 {
				end = len(p)
			}
			out = append(out, p[:end])
			p = p[end:]
		}
	}
	return out
}

// line is where path stands, or its nearest parent that stands anywhere.
func (o *object) line(path string) int {
	line, _ := o.find(path)
	return line
}

// node is what is written at path, nil if nothing is.
func (o *object) node(path string) *yaml.Node {
	_, n := o.find(path)
	return resolve(n)
}

// has reports whether path is written.
func (o *object) has(path string) bool {
	_, n := o.find(path)
	return n != nil
}

func (o *object) find(path string) (line int, n *yaml.Node) {
	line, n = o.ref.Line, o.tree()
	for _, s := range segments(path) {
		n = resolve(n)
		if n == nil {
			return line, nil
		}
		var next *yaml.Node
		switch n.Kind {
		case yaml.MappingNode:
			list, _ := entries(n)
			for _, e := range list {
				if e.key == s || camel(e.key) == s {
					next, line = e.value, e.keyNode.Line
				}
			}
		case yaml.SequenceNode:
			if i, err := strconv.Atoi(s); err == nil && i >= 0 && i < len(n.Content) {
				next = n.Content[i]
				line = next.Line
			}
		}
		if next == nil {
			return line, nil
		}
		n = next
	}
	return line, n
}

// camel is the JSON name of a field that was written in snake_case, which
// Istio's decoder has always taken too.
func camel(s string) string {
	if !strings.Contains(s, "_") {
		return s
	}
	var b strings.Builder
	up := false
	for _, c := range []byte(s) {
		if c == '_' {
			up = true
			continue
		}
		if up && c >= 'a' && c <= 'z' {
			c -= 'a' - 'A'
		}
		up = false
		b.WriteByte(c)
	}
	return b.String()
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

// parserError are the errors of the YAML parser, which counts lines from 0 where
// its scanner counts them from 1, and does not say line 0.
var parserError = regexp.MustCompile(`^did not find expected (<|node content|'-' indicator|key|',')`)

// documents reads the YAML documents of a file. A syntax error refuses the file
// as a whole: what a half-written file holds is not what its author meant.
func documents(f File) (docs []*yaml.Node, line int, err error) {
	if len(f.Data) > MaxFileBytes {
		return nil, 0, fmt.Errorf("the file has %d bytes, more than the %d allowed: split it", len(f.Data), MaxFileBytes)
	}
	if !utf8.Valid(f.Data) {
		return nil, 0, errors.New("not UTF-8 text: save it as UTF-8")
	}
	data := f.Data
	if path.Ext(f.Name) == ".json" {
		// A tab may stand between JSON's tokens but never in one, and YAML's
		// scanner does not like it there.
		data = bytes.ReplaceAll(data, []byte{'\t'}, []byte{' '})
	}
	defer func() {
		if r := recover(); r != nil {
			docs, line, err = nil, 0, fmt.Errorf("not valid YAML: %v", r)
		}
	}()
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return docs, 0, nil
		}
		if err != nil {
			msg := strings.TrimPrefix(err.Error(), "yaml: ")
			if m := yamlLine.FindStringSubmatch(msg); m != nil {
				line, _ = strconv.Atoi(m[1])
				msg = strings.Replace(msg, m[0], "", 1)
			}
			if parserError.MatchString(msg) {
				line++
			}
			return nil, line, fmt.Errorf("not valid YAML: %s", msg)
		}
		if doc.Kind == yaml.DocumentNode && len(doc.Content) == 1 {
			if n := resolve(doc.Content[0]); !isNull(n) {
				docs = append(docs, n)
			}
		}
	}
}
