package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

type loadOptions struct {
	url, rate string
	out       io.Writer
}

// Bounds of the load: requests under way, and how often it says how it goes.
const (
	maxInFlight = 256
	summaryTime = 5 * time.Second
)

// load asks url at a steady rate until ctx ends: it does not wait for answers,
// so that a slow mesh gets no less to do.
func load(ctx context.Context, c *http.Client, o loadOptions) error {
	rate, err := strconv.ParseFloat(o.rate, 64)
	if err != nil || rate <= 0 || rate > 10000 {
		return fmt.Errorf("RATE %q: want requests per second, up to 10000", o.rate)
	}
	ticks := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer ticks.Stop()
	summary := time.NewTicker(summaryTime)
	defer summary.Stop()
	var counts tally
	slots := make(chan struct{}, maxInFlight)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-summary.C:
			fmt.Fprintln(o.out, counts.take())
		case <-ticks.C:
			select {
			case slots <- struct{}{}:
				wg.Go(func() {
					counts.add(ask(ctx, c, o.url))
					<-slots
				})
			default:
				counts.add("not sent: too many are under way")
			}
		}
	}
}

// ask makes one request and names its outcome: the billing version that
// answered, or what went wrong; "" if ctx ended.
func ask(ctx context.Context, c *http.Client, url string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err.Error()
	}
	res, err := c.Do(req)
	if ctx.Err() != nil {
		return ""
	}
	if err != nil {
		return "failed: " + err.Error()
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return "failed: " + err.Error()
	}
	if res.StatusCode != http.StatusOK {
		return "status " + strconv.Itoa(res.StatusCode)
	}
	return or(res.Header.Get("x-billing-version"), "ok")
}

// tally counts outcomes.
type tally struct {
	mu sync.Mutex
	n  map[string]int
}

func (t *tally) add(outcome string) {
	if outcome == "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = map[string]int{}
	}
	t.n[outcome]++
}

// take says what was counted since the last time.
func (t *tally) take() string {
	t.mu.Lock()
	n := t.n
	t.n = nil
	t.mu.Unlock()
	total := 0
	for _, c := range n {
		total += c
	}
	parts := []string{fmt.Sprintf("%d requests", total)}
	for _, k := range slices.Sorted(maps.Keys(n)) {
		parts = append(parts, fmt.Sprintf("%s %d (%.1f%%)", k, n[k], 100*float64(n[k])/float64(total)))
	}
	return strings.Join(parts, ", ")
}
