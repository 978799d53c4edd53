package decide

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// budgetModel is the budget in real numbers.
type budgetModel struct {
	at   float64 // seconds
	have float64
}

func (m *budgetModel) to(now int64) {
	s := float64(now/(1e9/64)) / 64
	if s > m.at {
		m.have = 100 + (m.have-100)*math.Exp(-(s-m.at)/10)
		m.at = s
	}
}

// TestBudgetModel drives the budget and the model with the same random events:
// they never differ by more than rounding, and the budget is never the more
// generous one.
func TestBudgetModel(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 7))
		var b Budget
		m := budgetModel{have: 100}
		now := int64(rng.Uint64N(1e12))
		m.at = float64(now/(1e9/64)) / 64
		drift := 1.0
		for i := range 20_000 {
			switch rng.Uint64N(4) {
			case 0:
				now += int64(rng.Uint64N(20e6))
			case 1:
				if rng.Uint64N(200) == 0 {
					now += int64(rng.Uint64N(30e9))
				}
			case 2:
				m.to(now)
				b = b.Requested(now)
				m.have += 0.2
			case 3:
				m.to(now)
				c, ok := b.Take(now)
				if b = c; ok {
					if m.have < 1-1e-6 {
						t.Fatalf("seed %d, step %d: a retry out of %v", seed, i, m.have)
					}
					m.have--
				} else if m.have > 1+drift {
					t.Fatalf("seed %d, step %d: none out of %v", seed, i, m.have)
				}
			}
			m.to(now)
			if have := b.Balance(now); have > m.have+1e-6 || have < m.have-drift {
				t.Fatalf("seed %d, step %d: %v, the model %v", seed, i, have, m.have)
			}
		}
	}
}

// TestBudgetBound: in any span no more retries than the promise, whatever is
// asked for.
func TestBudgetBound(t *testing.T) {
	const second = int64(time.Second)
	for _, rate := range []int64{0, 1, 50, 1000, 20000} {
		var b Budget
		var retries, requests float64
		// Ten minutes of health fill it, then everything fails for one minute.
		for i := range 600 * rate {
			b = b.Requested(i * second / max(rate, 1))
		}
		start := 600 * second
		full := b.Balance(start)
		if want := 100 + 2*float64(rate); rate > 0 && (full > want+1 || full < want*0.99-1) {
			t.Errorf("%d rps: a balance of %v, want %v", rate, full, want)
		}
		for ms := range int64(60_000) {
			now := start + ms*int64(time.Millisecond)
			for range rate / 1000 {
				b = b.Requested(now)
				requests++
			}
			for {
				var ok bool
				if b, ok = b.Take(now); !ok {
					break
				}
				retries++
			}
		}
		if most := full + requests/5 + 10*60 + 1; retries > most || retries < most*0.9 && rate >= 1000 {
			t.Errorf("%d rps: %v retries, promised %v", rate, retries, most)
		}
	}
}

// TestBudgetMinimum: an empty budget of a cluster without requests gains ten a
// second, for longer than a while.
func TestBudgetMinimum(t *testing.T) {
	var b Budget
	now, n := int64(0), 0
	take := func() (got int) {
		for {
			var ok bool
			if b, ok = b.Take(now); !ok {
				return got
			}
			got++
		}
	}
	if got := take(); got != 100 {
		t.Errorf("%d at first", got)
	}
	for range 100 {
		now += int64(time.Second)
		n += take()
	}
	if n < 900 || n > 1000 {
		t.Errorf("%d retries in 100 s", n)
	}
}

func TestBudgetLimits(t *testing.T) {
	var b Budget
	for range 30_000_000 {
		b = b.Requested(0)
	}
	if got := b.Balance(0); got != float64(maxBalance)/unit {
		t.Error(got)
	}
	b = b.Requested(int64(time.Hour))
	if got := b.Balance(int64(time.Minute)); got > 101 { // a clock behind: no time has passed
		t.Error(got)
	}
}

// TestBudgetShared: loops that share one by compare-and-swap take exactly what
// there is.
func TestBudgetShared(t *testing.T) {
	var word atomic.Uint64
	var got atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Add(1)
		go func() {
			defer all.Done()
			for i := range 2000 {
				for {
					old := word.Load()
					b, ok := Budget(old).Requested(5), true
					if i%2 == 0 {
						b, ok = Budget(old).Take(5)
					}
					if word.CompareAndSwap(old, uint64(b)) {
						if ok && i%2 == 0 {
							got.Add(1)
						}
						break
					}
				}
			}
		}()
	}
	all.Wait()
	left := uint64(Budget(word.Load()).Balance(5) * unit)
	if sum := uint64(got.Load())*unit + left; sum != 100*unit+8*1000*perRequest {
		t.Errorf("%d were taken and %d thousandths are left", got.Load(), left)
	}
}
