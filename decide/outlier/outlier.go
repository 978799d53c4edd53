// Package outlier decides which endpoints of a cluster are taken out of
// balancing for a time because they fail: Envoy's outlier detection, as far as
// Istio's DestinationRule reaches it (consecutive errors).
//
// What enters: the outcome of each attempt, into an endpoint's Counter; and,
// to the cluster's one Detector, the endpoints that there are, the counters
// that met their bound, and the time. What leaves: Events. It knows no clock,
// no goroutine and no socket.
//
// A Counter may be used by any number of goroutines at once; a Detector by one
// at a time.
package outlier

import (
	"slices"
	"sync/atomic"
	"time"
)

// DefaultMaxEjection is Envoy's max_ejection_time, which Istio leaves alone.
const DefaultMaxEjection = 300 * time.Second

// Settings are a DestinationRule's outlierDetection with defaults filled in. A
// number of consecutive errors of 0 never ejects.
type Settings struct {
	Consecutive5xx     uint32
	ConsecutiveGateway uint32
	ConsecutiveLocal   uint32 // only with SplitLocal
	SplitLocal         bool
	Interval           time.Duration
	BaseEjection       time.Duration
	MaxPercent         uint32
	MinHealthPercent   uint32
	Codes              []int // statuses of answers that are errors; none: 500–599
}

// Valid reports whether the settings can be worked with.
func (s *Settings) Valid() bool {
	return s.Interval > 0 && s.BaseEjection > 0 && s.MaxPercent <= 100 && s.MinHealthPercent <= 100
}

// maxEjection is the longest ejection: "the default value (300s) or
// base_ejection_time, whichever is larger".
func (s *Settings) maxEjection() time.Duration { return max(DefaultMaxEjection, s.BaseEjection) }

// Causes is a set of reasons to eject.
type Causes uint8

// The reasons, in the order in which Envoy looks at them.
const (
	Gateway Causes = 1 << iota
	Errors
	Local
)

// String is Envoy's name of one cause.
func (c Causes) String() string {
	switch c {
	case Gateway:
		return "consecutive_gateway_failure"
	case Errors:
		return "consecutive_5xx"
	case Local:
		return "consecutive_local_origin_failure"
	}
	return "none"
}

// Field is the DestinationRule's field behind one cause.
func (c Causes) Field() string {
	switch c {
	case Gateway:
		return "consecutiveGatewayErrors"
	case Errors:
		return "consecutive5xxErrors"
	}
	return "consecutiveLocalOriginFailures"
}

// Counter counts one endpoint's consecutive errors, for all loops of a
// process. It fills a cache line.
type Counter struct {
	errors, gateway, local atomic.Uint32
	_                      [52]byte
}

// Status takes the status of an endpoint's answer, and says which bounds were
// met by it. Exactly one caller hears of each.
//
// Where the user says which statuses are errors, only these are, 4xx among them;
// the bounds stay what they are.
func (c *Counter) Status(s *Settings, code int) (met Causes) {
	if len(s.Codes) > 0 {
		switch {
		case !slices.Contains(s.Codes, code):
			code = 200
		case code < 500:
			code = 500
		}
	}
	return c.count(s, code)
}

func (c *Counter) count(s *Settings, code int) (met Causes) {
	if code < 500 || code > 599 {
		// Reading first keeps the line shared while all goes well.
		if c.errors.Load() != 0 {
			c.errors.Store(0)
		}
		if c.gateway.Load() != 0 {
			c.gateway.Store(0)
		}
		return 0
	}
	if code >= 502 && code <= 504 {
		if c.gateway.Add(1) == s.ConsecutiveGateway {
			met |= Gateway
		}
	} else if c.gateway.Load() != 0 {
		c.gateway.Store(0)
	}
	if c.errors.Add(1) == s.Consecutive5xx {
		met |= Errors
	}
	return met
}

// Failed takes a failure of our own side: no connection, a reset, no answer in
// time. Unless they are split it counts as the status that the client gets.
func (c *Counter) Failed(s *Settings, status int) Causes {
	if !s.SplitLocal {
		return c.count(s, status)
	}
	if c.local.Add(1) == s.ConsecutiveLocal {
		return Local
	}
	return 0
}

// Connected takes a connection that was there for an attempt.
func (c *Counter) Connected(s *Settings) {
	if s.SplitLocal && c.local.Load() != 0 {
		c.local.Store(0)
	}
}

// Values are the present counts: 5xx, gateway errors, failures of our side.
func (c *Counter) Values() (errors, gateway, local uint32) {
	return c.errors.Load(), c.gateway.Load(), c.local.Load()
}

func (c *Counter) reset(which Causes) {
	if which&Errors != 0 {
		c.errors.Store(0)
	}
	if which&Gateway != 0 {
		c.gateway.Store(0)
	}
	if which&Local != 0 {
		c.local.Store(0)
	}
}
