package decide

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

func rateLimit(requests, burst uint64, per time.Duration) *seinev1.RateLimit {
	return &seinev1.RateLimit{Id: "default/x[0]", Requests: requests, Burst: burst, Per: durationpb.New(per)}
}

// TestBucketModel compares with a bucket of real numbers that is filled
// steadily.
func TestBucketModel(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		requests, burst := 1+rng.Uint64N(1000), 1+rng.Uint64N(50)
		per := time.Duration(1 + rng.Int64N(int64(time.Minute)))
		l, err := CompileRateLimit(rateLimit(requests, burst, per))
		if err != nil {
			continue // more a second than there can be
		}
		var b Bucket
		now, tokens := rng.Int64N(int64(time.Hour)), float64(burst)
		rate := float64(requests) / float64(per) // a nanosecond
		for step := range 500 {
			gap := rng.Int64N(int64(per)/int64(requests)*2 + 2)
			now += gap
			tokens = min(float64(burst), tokens+rate*float64(gap))
			next, told, ok := l.Take(b, now)
			switch {
			case math.Abs(tokens-1) < 0.01: // too near to tell
				if ok {
					tokens--
				}
			case ok != (tokens >= 1):
				t.Fatalf("seed %d, step %d: let in %v with %v tokens", seed, step, ok, tokens)
			case ok:
				tokens--
				if near := math.Abs(tokens - float64(told.Left)); near > 1.01 {
					t.Fatalf("seed %d, step %d: %d left, the model %v", seed, step, told.Left, tokens)
				}
			case told.Next <= 0 || told.Left != 0:
				t.Fatalf("seed %d, step %d: refused, but %+v", seed, step, told)
			}
			b = next
			tokens = max(tokens, 0)
		}
	}
}

func TestBucketTellsWhen(t *testing.T) {
	l, err := CompileRateLimit(rateLimit(10, 3, time.Second))
	if err != nil {
		t.Fatal(err)
	}
	var b Bucket
	for left := uint64(3); left > 0; left-- {
		var told Tokens
		var ok bool
		if b, told, ok = l.Take(b, 5); !ok || told.Left != left-1 || told.Full != time.Duration(4-left)*100*time.Millisecond {
			t.Fatalf("token %d: %+v %v", left, told, ok)
		}
	}
	if _, told, ok := l.Take(b, 5); ok || told.Next != 100*time.Millisecond || told.Full != 300*time.Millisecond {
		t.Errorf("empty: %+v %v", told, ok)
	}
	if _, _, ok := l.Take(b, 5+int64(100*time.Millisecond)-1); ok {
		t.Error("a token a nanosecond too early")
	}
	if _, _, ok := l.Take(b, 5+int64(100*time.Millisecond)); !ok {
		t.Error("no token when it was promised")
	}
	if b.Idle(5) || !b.Idle(5+int64(300*time.Millisecond)) {
		t.Error("idle at the wrong time")
	}
}

func TestRateLimitMatches(t *testing.T) {
	p := rateLimit(1, 1, time.Second)
	p.Match = []*seinev1.HttpMatch{
		{Uri: &seinev1.StringMatch{Match: &seinev1.StringMatch_Prefix{Prefix: "/api/"}}, Method: &seinev1.StringMatch{Match: &seinev1.StringMatch_Exact{Exact: "POST"}}},
		{Headers: []*seinev1.HeaderMatch{{Name: "x-tier", Value: &seinev1.StringMatch{Match: &seinev1.StringMatch_Exact{Exact: "free"}}}}},
	}
	l, err := CompileRateLimit(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, path, tier string
		want               bool
	}{
		{"POST", "/api/x", "", true}, {"GET", "/api/x", "", false}, {"POST", "/other", "", false},
		{"GET", "/", "free", true}, {"GET", "/", "paid", false},
	} {
		req := request(c.method, "h", c.path)
		if c.tier != "" {
			req = request(c.method, "h", c.path, "x-tier: "+c.tier)
		}
		if got := l.Matches(req, 8080); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestRateLimitRefused(t *testing.T) {
	for _, p := range []*seinev1.RateLimit{
		rateLimit(0, 1, time.Second), rateLimit(1, 1, 0), rateLimit(1, 1, -time.Second), rateLimit(1, math.MaxUint64, time.Hour),
		rateLimit(math.MaxUint64, 1, time.Second), rateLimit(1, 1000, 24*time.Hour), {},
	} {
		if _, err := CompileRateLimit(p); err == nil {
			t.Errorf("%v was taken", p)
		}
	}
}
