package mesh

import (
	"iter"
	"maps"
)

// layered is a map of which two Snapshots share most: base is written by nobody,
// and over holds what differs from it, which is little.
type layered[K comparable, V any] struct {
	base map[K]V
	over map[K]laid[V]
}

// laid is a value over the base; gone: there is none any more.
type laid[V any] struct {
	v    V
	gone bool
}

func (l *layered[K, V]) get(k K) V {
	if o, ok := l.over[k]; ok {
		return o.v
	}
	return l.base[k]
}

// with is l with some values others. It costs what changed, and once in a while, when
// that has become an eighth of all, the whole.
func (l *layered[K, V]) with(changed map[K]laid[V]) layered[K, V] {
	if len(changed) == 0 {
		return *l
	}
	if n := len(l.over) + len(changed); n > 64 && n > len(l.base)/8 {
		base := maps.Clone(l.base)
		for _, layer := range []map[K]laid[V]{l.over, changed} {
			for k, o := range layer {
				if o.gone {
					delete(base, k)
				} else {
					base[k] = o.v
				}
			}
		}
		return layered[K, V]{base: base}
	}
	over := make(map[K]laid[V], len(l.over)+len(changed))
	maps.Copy(over, l.over)
	maps.Copy(over, changed)
	return layered[K, V]{l.base, over}
}

func (l *layered[K, V]) has(k K) bool {
	if o, ok := l.over[k]; ok {
		return !o.gone
	}
	_, ok := l.base[k]
	return ok
}

// keys are those of the values that there are.
func (l *layered[K, V]) keys() iter.Seq[K] {
	return func(yield func(K) bool) {
		for k, o := range l.over {
			if !o.gone && !yield(k) {
				return
			}
		}
		for k := range l.base {
			if _, over := l.over[k]; !over && !yield(k) {
				return
			}
		}
	}
}
