package inject

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Operation is one step of a JSON patch (RFC 6902): add, replace or remove.
type Operation struct {
	Op    string          `json:"op"`
	Path  string          `json:"path"` // from the pod on, or from the pod template
	Value json.RawMessage `json:"value,omitempty"`
}

// patch collects operations.
type patch struct {
	ops       []Operation
	annotated bool // an operation has made the annotations
	err       error
}

func (p *patch) do(op, path string, value any) {
	b, err := json.Marshal(value)
	if err != nil && p.err == nil {
		p.err = fmt.Errorf("inject: %s: %w", path, err)
	}
	p.ops = append(p.ops, Operation{Op: op, Path: path, Value: b})
}

// annotation sets one of the pod's annotations.
func (p *patch) annotation(pod *corev1.Pod, key, value string) {
	old, ok := pod.Annotations[key]
	switch {
	case ok && old == value:
	case ok:
		p.do("replace", annotations+"/"+escape(key), value)
	default:
		if len(pod.Annotations) == 0 && !p.annotated {
			p.do("add", annotations, map[string]string{})
			p.annotated = true
		}
		p.do("add", annotations+"/"+escape(key), value)
	}
}

const annotations = "/metadata/annotations"

// list adds to an array that may not be there yet: at the front, in order, or
// behind what is there.
func list[T any](p *patch, path string, have int, front bool, items ...T) {
	if len(items) == 0 {
		return
	}
	if have == 0 {
		p.do("add", path, items)
		return
	}
	for i := range items {
		at := "/-"
		if front {
			at = "/" + index(i)
		}
		p.do("add", path+at, items[i])
	}
}

// escape is a key as a token of a JSON pointer (RFC 6901 §3).
func escape(key string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}

func unescape(token string) string {
	return strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
}

func index(i int) string { return strconv.Itoa(i) }
