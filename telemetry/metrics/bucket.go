package metrics

import "math/bits"

// durationBounds are the upper bounds, in microseconds, of the one histogram
// that is kept for durations. Every bound of Istio's is among them, so that
// Istio's coarse histogram and our fine one are two readings of one count.
var durationBounds = [...]int64{
	25, 50, 75, 100, 150, 200, 250, 300, 400, 500,
	600, 700, 800, 1000, 1250, 1500, 1750, 2000, 2500, 3000, 4000, 5000,
	6000, 7500, 10000, 12500, 15000, 20000, 25000, 30000, 40000, 50000,
	75000, 100000, 150000, 200000, 250000, 350000, 500000, 750000, 1000000,
	1500000, 2500000, 3500000, 5000000, 7500000, 10000000, 20000000, 30000000,
	60000000, 120000000, 300000000, 600000000, 1800000000, 3600000000,
}

// istioBounds are the buckets of Envoy's histograms as Istio exposes them:
// milliseconds for durations, bytes for sizes, with the text of their label.
var istioBounds = [...]struct {
	value int64 // of whole units: nothing lies between 0 and 0.5
	text  string
}{
	{0, "0.5"}, {1, "1"}, {5, "5"}, {10, "10"}, {25, "25"}, {50, "50"},
	{100, "100"}, {250, "250"}, {500, "500"}, {1000, "1000"}, {2500, "2500"},
	{5000, "5000"}, {10000, "10000"}, {30000, "30000"}, {60000, "60000"},
	{300000, "300000"}, {600000, "600000"}, {1800000, "1800000"}, {3600000, "3600000"},
}

const (
	durationBuckets = len(durationBounds) + 1 // the last is +Inf
	sizeBuckets     = len(istioBounds) + 1
)

var (
	// First bucket that a value of so many bits can fall into.
	durationStart = starts(func(i int) (int64, bool) {
		if i == len(durationBounds) {
			return 0, false
		}
		return durationBounds[i], true
	})
	sizeStart = starts(func(i int) (int64, bool) {
		if i == len(istioBounds) {
			return 0, false
		}
		return istioBounds[i].value, true
	})
	// coarse[i] is how many fine buckets lie at or below Istio's bound i.
	coarse = func() (c [len(istioBounds)]int) {
		for i, b := range istioBounds {
			us := b.value * 1000
			if i == 0 {
				us = 500
			}
			for j, d := range durationBounds {
				if d == us {
					c[i] = j + 1
				}
			}
		}
		return c
	}()
	durationText = func() (t [len(durationBounds)]string) {
		for i, d := range durationBounds {
			t[i] = string(trimZeros(appendFixed(nil, uint64(d), 6)))
		}
		return t
	}()
)

func starts(bound func(int) (int64, bool)) (s [65]uint8) {
	for n := range s {
		var lowest int64 // smallest value of n bits
		if n > 0 && n < 64 {
			lowest = 1 << (n - 1)
		} else if n == 64 {
			lowest = 1<<63 - 1
		}
		i := 0
		for {
			b, ok := bound(i)
			if !ok || lowest <= b {
				break
			}
			i++
		}
		s[n] = uint8(i)
	}
	return s
}

// durationBucket returns the bucket of a duration; negative counts as 0.
func durationBucket(micros int64) int {
	micros = max(micros, 0)
	i := int(durationStart[bits.Len64(uint64(micros))])
	for i < len(durationBounds) && micros > durationBounds[i] {
		i++
	}
	return i
}

func sizeBucket(n int64) int {
	i := int(sizeStart[bits.Len64(uint64(n))])
	for i < len(istioBounds) && n > istioBounds[i].value {
		i++
	}
	return i
}

// appendFixed appends v / 10^digits as a decimal fraction.
func appendFixed(dst []byte, v uint64, digits int) []byte {
	var b [32]byte
	i := len(b)
	for n := 0; v > 0 || n <= digits; n++ {
		if n == digits && n > 0 {
			i--
			b[i] = '.'
		}
		i--
		b[i] = byte('0' + v%10)
		v /= 10
	}
	return append(dst, b[i:]...)
}

// trimZeros removes zeros at the end of a fraction, and a point left bare.
func trimZeros(b []byte) []byte {
	for len(b) > 0 && b[len(b)-1] == '0' {
		b = b[:len(b)-1]
	}
	if len(b) > 0 && b[len(b)-1] == '.' {
		b = b[:len(b)-1]
	}
	return b
}
