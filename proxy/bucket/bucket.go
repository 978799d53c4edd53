// Package bucket holds the buckets of tokens that all loops of a process share:
// one padded atomic word each, stepped by decide.RateLimit alone.
//
// A limit, a time and (for a table) a key enter; whether there is a token
// leaves. Nothing here locks, blocks, allocates or knows a clock.
package bucket

import (
	"math/bits"
	"sync/atomic"

	"github.com/seinemesh/seine/decide"
)

// Bucket is one bucket. The zero value is full. It may be used from any number
// of goroutines, and lets in exactly what its limit says.
type Bucket struct {
	_     [56]byte
	state atomic.Int64
	_     [64]byte
}

// Take takes a token of l at now, nanoseconds of a clock that all callers share.
func (b *Bucket) Take(l *decide.RateLimit, now int64) (decide.Tokens, bool) {
	return take(&b.state, l, now)
}

func take(state *atomic.Int64, l *decide.RateLimit, now int64) (decide.Tokens, bool) {
	for {
		old := state.Load()
		next, tokens, ok := l.Take(decide.Bucket(old), now)
		if !ok || state.CompareAndSwap(old, int64(next)) {
			return tokens, ok
		}
	}
}

// ways is how many buckets a key may have: those of its set.
const ways = 8

// Table holds one bucket for each of a bounded number of keys, which are given
// as hashes of a seed that callers cannot know. A bucket that is full again is
// forgotten when its place is wanted. A key that finds no place shares one
// bucket with all others that find none: so inventing keys gains nothing.
//
// It may be used from any number of goroutines. Each key gets exactly what the
// limit says, but for one: when the place of a full bucket changes hands at the
// very moment in which its old key comes back, the two may take one token of
// each other's.
type Table struct {
	sets   []set
	rest   Bucket
	seated atomic.Int64
}

type set [ways]place

type place struct {
	key   atomic.Uint64 // 0: nobody's yet
	state atomic.Int64
	_     [48]byte
}

// NewTable makes a table for at least size keys.
func NewTable(size int) *Table {
	sets := max(1, (size+ways-1)/ways)
	return &Table{sets: make([]set, 1<<bits.Len(uint(sets-1)))}
}

// Take takes a token from key's bucket. shared says that it was the bucket of
// those that found no place.
func (t *Table) Take(l *decide.RateLimit, key uint64, now int64) (tokens decide.Tokens, ok, shared bool) {
	if key == 0 {
		key = 1
	}
	s := &t.sets[(key>>32)&uint64(len(t.sets)-1)]
	if p := s.find(key, now, &t.seated); p != nil {
		tokens, ok = take(&p.state, l, now)
		return tokens, ok, false
	}
	tokens, ok = t.rest.Take(l, now)
	return tokens, ok, true
}

// find is the key's place: the one it has, or the first that nobody needs. Two
// loops that look for one key at once want the same place, and the one that is
// later looks again.
func (s *set) find(key uint64, now int64, seated *atomic.Int64) *place {
	for range 2 * ways {
		free := -1
		for i := range s {
			switch k := s[i].key.Load(); {
			case k == key:
				return &s[i]
			case free < 0 && (k == 0 || decide.Bucket(s[i].state.Load()).Idle(now)):
				free = i
			}
		}
		if free < 0 {
			return nil
		}
		old := s[free].key.Load()
		if old != key && old != 0 && !decide.Bucket(s[free].state.Load()).Idle(now) {
			continue
		}
		if old == key || s[free].key.CompareAndSwap(old, key) {
			if old == 0 {
				seated.Add(1)
			}
			return &s[free]
		}
	}
	return nil
}

// Keys is how many places have ever been taken: how much of the table is in use.
func (t *Table) Keys() int { return int(t.seated.Load()) }
