package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/seinemesh/seine/history"
)

// seriesAnswer is the answer of GET /api/v1/series.
type seriesAnswer struct {
	At     time.Time       `json:"at"`
	From   string          `json:"from"` // store, prometheus
	Note   string          `json:"note"`
	Start  time.Time       `json:"start"` // end of the first point
	Step   float64         `json:"step_seconds"`
	Points int             `json:"points"`
	Series []seriesLine    `json:"series"`
	Events []history.Event `json:"events"`
}

type seriesLine struct {
	Version  string `json:"version"`
	RPS      column `json:"rps"`
	Success  column `json:"success"`
	P50      column `json:"p50_ms"`
	P90      column `json:"p90_ms"`
	P99      column `json:"p99_ms"`
	Open     column `json:"open,omitempty"`
	Sent     column `json:"sent_bytes_per_second,omitempty"`
	Received column `json:"received_bytes_per_second,omitempty"`
}

// maxRange is the longest range that is answered, from Prometheus.
const maxRange = 30 * 24 * time.Hour

// seriesKey reads which series is asked for.
func seriesKey(r *http.Request) (history.Key, error) {
	service, workload, source, direction := r.FormValue("service"), r.FormValue("workload"), r.FormValue("source"), r.FormValue("direction")
	switch {
	case workload != "" && (service != "" || source != ""):
		return history.Key{}, errors.New("ask for workload=NAMESPACE/NAME alone, or for service=HOST with or without source=NAMESPACE/NAME")
	case workload != "":
		k := history.Key{Kind: history.WorkloadIn, Subject: workload}
		switch direction {
		case "", "in":
		case "out":
			k.Kind = history.WorkloadOut
		default:
			return k, fmt.Errorf("direction=%.50q: must be in or out", direction)
		}
		return k, nil
	case source != "":
		if service == "" {
			return history.Key{}, errors.New("source= needs service=HOST: which of its calls?")
		}
		return history.Key{Kind: history.Edge, Subject: source, Service: service}, nil
	case service != "":
		return history.Key{Kind: history.Service, Subject: service}, nil
	}
	return history.Key{Kind: history.Mesh}, nil
}

func (s *server) getSeries(w http.ResponseWriter, r *http.Request) {
	k, err := seriesKey(r)
	span := 15 * time.Minute
	if text := r.FormValue("range"); text != "" && err == nil {
		if span, err = parseRange(text); err != nil {
			err = fmt.Errorf("range=%.50q: write it as 15m, 6h or 7d, at most 30d", text)
		}
	}
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	send(w, r, s.series(r.Context(), k, time.Now(), span))
}

// parseRange reads a duration, with days.
func parseRange(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		if _, err := fmt.Sscanf(days+"\n", "%d\n", &n); err != nil || n < 1 || n > 30 {
			return 0, errors.New("not a number of days")
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(text)
	if err == nil && (d < time.Minute || d > maxRange) {
		err = errors.New("out of bounds")
	}
	return d, err
}

// series is a span of k, from Prometheus where it is longer than is remembered
// here.
func (s *server) series(ctx context.Context, k history.Key, now time.Time, span time.Duration) *seriesAnswer {
	own := s.scraper.memory.store.Read(k, now, span)
	if span <= history.CoarseSpan {
		return answerOf(own, now)
	}
	if got, ok := s.longTerm.read(ctx, k, now, span); ok {
		got.Events = own.Events // as far back as is remembered
		out := answerOf(got, now)
		out.From = "prometheus"
		return out
	}
	out := answerOf(own, now)
	out.Note = "the control plane remembers six hours; longer ranges come from Prometheus (seined --prometheus)"
	if says := s.longTerm.says(); says.Configured {
		out.Note = "these are the last six hours: Prometheus " + says.Error
	}
	return out
}

func answerOf(got history.Range, now time.Time) *seriesAnswer {
	out := &seriesAnswer{At: now.UTC(), From: "store", Start: got.Start, Step: got.Step.Seconds(), Points: got.Points, Series: []seriesLine{}, Events: got.Events}
	if out.Events == nil {
		out.Events = []history.Event{}
	}
	for _, l := range got.Series {
		out.Series = append(out.Series, seriesLine{l.Version, l.RPS, l.Success, l.P50, l.P90, l.P99, l.Open, l.SentRate, l.RecvdRate})
	}
	return out
}
