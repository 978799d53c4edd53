package decide

// linearMax is up to how many entries a plain ordered scan is the fastest.
const linearMax = 8

// entry is one match of one rule, in the order of precedence.
type entry struct {
	rule  int32
	match int32 // -1: the rule has none and takes everything
	m     *matcher
}

// index finds the first entry that a request matches. Entries with an exact
// path are found by hash; those with a prefix, or with a regular expression
// that begins with literal text, by walking a tree of prefixes down the path.
// Every list holds ascending positions, so the first match of all is the least
// of the lists' first matches, and each list is left as soon as it cannot beat
// the best so far.
type index struct {
	entries []entry
	slots   slots
	exact   map[string][]int32
	root    node
	linear  bool
}

// node is a node of a compressed prefix tree.
type node struct {
	label    string // what it adds to its parent's prefix
	entries  []int32
	children []*node // by first byte, ascending
}

func (x *index) build() {
	x.linear = len(x.entries) <= linearMax
	if x.linear {
		return
	}
	x.exact = map[string][]int32{}
	for i := range x.entries {
		m := x.entries[i].m
		switch {
		case m == nil || !m.hasURI || m.uri.fold:
			x.root.insert("", int32(i))
		case m.uri.kind == exactValue:
			x.exact[m.uri.text] = append(x.exact[m.uri.text], int32(i))
		case m.uri.kind == prefixValue, m.uri.kind == elementsValue:
			x.root.insert(m.uri.text, int32(i))
		default:
			x.root.insert(m.uri.lits.prefix, int32(i))
		}
	}
}

func (n *node) insert(prefix string, id int32) {
	if prefix == "" {
		n.entries = append(n.entries, id)
		return
	}
	for i, c := range n.children {
		if c.label[0] != prefix[0] {
			continue
		}
		common := 0
		for common < len(c.label) && common < len(prefix) && c.label[common] == prefix[common] {
			common++
		}
		if common < len(c.label) {
			split := &node{label: c.label[:common], children: []*node{c}}
			c.label = c.label[common:]
			n.children[i] = split
			c = split
		}
		c.insert(prefix[common:], id)
		return
	}
	n.children = append(n.children, &node{label: prefix, entries: []int32{id}})
	for i := len(n.children) - 1; i > 0 && n.children[i].label[0] < n.children[i-1].label[0]; i-- {
		n.children[i], n.children[i-1] = n.children[i-1], n.children[i]
	}
}

// child returns the child whose label begins with c.
func (n *node) child(c byte) *node {
	lo, hi := 0, len(n.children)
	for lo < hi {
		mid := (lo + hi) / 2
		if n.children[mid].label[0] < c {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(n.children) && n.children[lo].label[0] == c {
		return n.children[lo]
	}
	return nil
}

// find returns the position of the first entry that matches, or -1.
func (x *index) find(q *question) int {
	best := len(x.entries)
	if x.linear {
		for i := range x.entries {
			if m := x.entries[i].m; m == nil || m.matches(q, x.slots.list, true) {
				return i
			}
		}
		return -1
	}
	if ids := x.exact[string(q.path)]; ids != nil {
		best = x.scan(ids, best, q, false)
	}
	rest := q.path
	for n := &x.root; ; {
		best = x.scan(n.entries, best, q, true)
		if len(rest) == 0 {
			break
		}
		c := n.child(rest[0])
		if c == nil || len(rest) < len(c.label) || string(rest[:len(c.label)]) != c.label {
			break
		}
		n, rest = c, rest[len(c.label):]
	}
	if best == len(x.entries) {
		return -1
	}
	return best
}

// scan returns the lesser of best and the first of ids that matches.
func (x *index) scan(ids []int32, best int, q *question, uri bool) int {
	for _, id := range ids {
		if int(id) >= best {
			break
		}
		if m := x.entries[id].m; m == nil || m.matches(q, x.slots.list, uri) {
			return int(id)
		}
	}
	return best
}
