package decide

import "math"

// Budget bounds the retries to one cluster by its requests: each request earns
// a fifth of a retry, ten a second are free, and what was earned fades with a
// time constant of ten seconds. These are Linkerd's numbers (retryRatio 0.2,
// minRetriesPerSecond 10, ttl 10 s). With r requests a second the balance
// settles at 100 + 2r, Linkerd's; an empty one gains ten a second and a fifth of
// each request.
//
// So in any span of t seconds with n requests no more than B + n/5 + 10t
// retries are allowed, B being the balance at its start: however many requests
// fail, the load on a failing service grows by a fifth and no more.
//
// Budget is one word's worth of state with pure steps, so that loops share it
// by compare-and-swap alone: the low half is the balance in thousandths of a
// retry, the high half the time of the last step in 64ths of a second. The zero
// value is a budget that has never been used.
type Budget uint64

const (
	unit        = 1000 // thousandths
	perRequest  = unit / 5
	reserve     = 100 * unit // 10 a second for 10 seconds
	fade        = 10 * ticks // ticks
	ticks       = 64         // a second
	maxBalance  = math.MaxUint32
	nanosecond1 = 1_000_000_000
)

// Requested is the budget after a request at now, in nanoseconds of a clock
// that starts before the first call.
func (b Budget) Requested(now int64) Budget {
	at, have := b.at(now)
	return pack(at, have+perRequest)
}

// Take is the budget after a retry at now; false: there is none left.
func (b Budget) Take(now int64) (Budget, bool) {
	at, have := b.at(now)
	if have < unit {
		return pack(at, have), false
	}
	return pack(at, have-unit), true
}

// Balance is how many retries the budget would allow at now.
func (b Budget) Balance(now int64) float64 {
	_, have := b.at(now)
	return float64(have) / unit
}

// at is the balance at now, and now in ticks, never before the last step.
func (b Budget) at(now int64) (tick, have uint64) {
	// 1: so that the state is never zero once it was used.
	tick = uint64(now/nanosecond1)*ticks + uint64(now%nanosecond1)*ticks/nanosecond1 + 1
	tick &= math.MaxUint32
	last, have := uint64(b)>>32, uint64(b)&math.MaxUint32
	if b == 0 {
		return tick, reserve
	}
	if tick <= last {
		return last, have
	}
	// The distance from the reserve fades, rounded so that it never gives.
	left := math.Exp(-float64(tick-last) / fade)
	if have > reserve {
		return tick, reserve + uint64(float64(have-reserve)*left)
	}
	return tick, reserve - uint64(math.Ceil(float64(reserve-have)*left))
}

func pack(tick, have uint64) Budget {
	return Budget(tick<<32 | min(have, maxBalance))
}
