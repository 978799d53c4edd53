package trace

import (
	"encoding/binary"
	"math"
)

// Sampler is a share of traces. The zero Sampler keeps none.
type Sampler struct {
	below uint64
	all   bool
}

// Share returns the sampler of a percentage. Below 0 counts as 0, above 100 as
// 100, NaN as 0.
func Share(percent float64) Sampler {
	switch {
	case percent >= 100:
		return Sampler{all: true}
	case percent > 0:
		return Sampler{below: uint64(percent / 100 * math.MaxUint64)}
	}
	return Sampler{}
}

// Keep reports whether the trace is among the share. It depends on the ID
// alone, so that everybody with the same share keeps the same traces.
func (s Sampler) Keep(id ID) bool {
	return s.all || mix(binary.BigEndian.Uint64(id[8:])) < s.below
}

// mix spreads IDs that somebody has counted up rather than drawn (SplitMix64's
// finalizer).
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
