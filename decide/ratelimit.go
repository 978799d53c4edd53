package decide

import (
	"math/bits"
	"time"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/message"
)

// RateLimit is a compiled api RateLimit. It is immutable.
type RateLimit struct {
	Proto *seinev1.RateLimit
	Burst uint64 // the bucket's size, in tokens

	emission int64 // between two tokens, in 16ths of a nanosecond
	matches  []matcher
	slots    slots
}

// fine is how many steps of a bucket's time make a nanosecond, so that a million
// tokens a second come evenly.
const fine = 16

// longestFill bounds how long a bucket may take to fill, so that its time never
// overflows.
const longestFill = 30 * 24 * time.Hour

// CompileRateLimit checks and compiles a limit.
func CompileRateLimit(p *seinev1.RateLimit) (*RateLimit, error) {
	l := &RateLimit{Proto: p, Burst: p.Burst}
	if l.Burst == 0 {
		l.Burst = p.Requests
	}
	per := p.Per.AsDuration()
	if p.Id == "" || p.Requests == 0 || p.Per.CheckValid() != nil || per <= 0 {
		return nil, invalid("rate limit %q of %d requests each %v", p.Id, p.Requests, p.Per)
	}
	high, low := bits.Mul64(uint64(per), fine)
	if high >= p.Requests {
		return nil, invalid("rate limit %q of %d requests each %v", p.Id, p.Requests, per)
	}
	q, _ := bits.Div64(high, low, p.Requests)
	over, fill := bits.Mul64(q, l.Burst)
	if q == 0 || over != 0 || fill > uint64(longestFill)*fine {
		return nil, invalid("rate limit %q: %d requests each %v with a burst of %d are too many, or take more than %v to come back", p.Id, p.Requests, per, l.Burst, longestFill)
	}
	l.emission = int64(q)
	for _, m := range p.Match {
		c, err := compileMatch(m, &l.slots)
		if err != nil {
			return nil, invalid("rate limit %q: %v", p.Id, err)
		}
		l.matches = append(l.matches, c)
	}
	return l, nil
}

// Matches reports whether the limit is about a request. port is the workload's.
func (l *RateLimit) Matches(req *message.Request, port uint32) bool {
	if len(l.matches) == 0 {
		return true
	}
	var q question
	q.init(req, port)
	for i := range l.matches {
		if l.matches[i].matches(&q, l.slots.list, true) {
			return true
		}
	}
	return false
}

// Bucket is the state of one bucket of tokens: one word, with pure steps, so
// that loops share it by compare-and-swap alone. It holds the time at which the
// bucket will be full (the generic cell rate algorithm's theoretical arrival
// time); the zero value is a full one.
type Bucket int64

// Tokens is what a caller is told of a bucket.
type Tokens struct {
	Left uint64        // whole tokens that are left
	Full time.Duration // until it is full
	Next time.Duration // until there is a token; 0: there is one
}

// Take takes a token at now, in nanoseconds of a clock that starts before the
// first call. False: there is none, and the bucket is as it was.
func (l *RateLimit) Take(b Bucket, now int64) (Bucket, Tokens, bool) {
	at := now * fine
	full := max(int64(b), at) + l.emission
	size := l.emission * int64(l.Burst)
	if full-at > size {
		return b, Tokens{Full: nanoseconds(int64(b) - at), Next: nanoseconds(full - at - size)}, false
	}
	return Bucket(full), Tokens{Left: uint64(size-(full-at)) / uint64(l.emission), Full: nanoseconds(full - at)}, true
}

// Idle reports whether a bucket is full at now: to forget it changes nothing.
func (b Bucket) Idle(now int64) bool { return int64(b) <= now*fine }

// nanoseconds rounds up.
func nanoseconds(n int64) time.Duration { return time.Duration((n + fine - 1) / fine) }
