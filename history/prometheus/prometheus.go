// Package prometheus asks a Prometheus for the series that package history keeps,
// over ranges that are longer than it remembers.
//
// In: a URL, a key and a range. Out: the same Range as history's own. It only
// asks; what it does not get in time is an error, and the caller's own store
// answers instead.
package prometheus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/seinemesh/seine/history"
	"github.com/seinemesh/seine/telemetry"
)

const (
	wait     = 8 * time.Second // for all the queries of a range
	atOnce   = 4
	maxBody  = 16 << 20
	points   = 360 // about so many in a range
	maxLines = 50  // versions
)

// Client asks one Prometheus.
type Client struct {
	base string
	http *http.Client
}

// New returns a Client for http://HOST[:PORT][/PATH].
func New(address string) (*Client, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("the address %q is not http://HOST:PORT", address)
	case u.User != nil:
		return nil, errors.New("the address holds a user or a password, which everybody sees in the arguments of a program: put a proxy before Prometheus that adds them")
	}
	return &Client{strings.TrimSuffix(u.String(), "/"), &http.Client{
		// No proxy and no redirect: only what was named is asked.
		Transport:     &http.Transport{MaxIdleConnsPerHost: atOnce, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 16 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// selector is the labels of a key's series.
func selector(k history.Key) string {
	l := []string{telemetry.LabelReporter + `="source"`}
	workload := func(side, id string) {
		namespace, name, _ := strings.Cut(id, "/")
		l = append(l, side+"_workload_namespace="+strconv.Quote(namespace), side+"_workload="+strconv.Quote(name))
	}
	switch k.Kind {
	case history.WorkloadIn:
		l[0] = telemetry.LabelReporter + `="destination"`
		workload("destination", k.Subject)
	case history.WorkloadOut:
		workload("source", k.Subject)
	case history.Service:
		l = append(l, telemetry.LabelDestinationService+"="+strconv.Quote(k.Subject))
	case history.Edge:
		l = append(l, telemetry.LabelDestinationService+"="+strconv.Quote(k.Service))
		if strings.Contains(k.Subject, "/") {
			workload("source", k.Subject)
		} else { // from outside the mesh: only the server's side knows
			l[0] = telemetry.LabelReporter + `="destination"`
			l = append(l, telemetry.LabelSourceWorkload+`="unknown"`)
		}
	}
	return strings.Join(l, ",")
}

// queries are those of the columns, grouped by the labels in by ("" or a name).
func queries(k history.Key, window time.Duration, by string) [5]string {
	sel, w := selector(k), fmt.Sprintf("[%ds]", int(window.Seconds()))
	sum := func(more, labels string) string {
		group := "sum"
		if labels != "" {
			group += " by (" + labels + ")"
		}
		return group + " (" + more + ")"
	}
	rate := func(metric, more string) string { return "rate(" + metric + "{" + sel + more + "}" + w + ")" }
	le := strings.Trim("le,"+by, ",")
	quantile := func(q string) string {
		return "histogram_quantile(" + q + ", " + sum(rate(telemetry.FineDuration+"_bucket", ""), le) + ")"
	}
	return [5]string{
		sum(rate(telemetry.RequestsTotal, ""), by),
		// What counts against success is what package stat counts.
		sum(rate(telemetry.RequestsTotal, `,response_code=~"5.."`)+" or "+rate(telemetry.RequestsTotal, `,response_code="0",response_flags!~"DC|-"`), by),
		quantile("0.5"), quantile("0.9"), quantile("0.99"),
	}
}

// Read returns the span that ends at now of k, and of each of its versions.
func (c *Client) Read(ctx context.Context, k history.Key, now time.Time, span time.Duration) (history.Range, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	step := max((span / points).Round(time.Minute), time.Minute)
	n := int(span / step)
	end := now.Truncate(step)
	r := history.Range{Start: end.Add(-time.Duration(n-1) * step).UTC(), Step: step, Points: n}
	groups := []string{""}
	if (k.Kind == history.Service || k.Kind == history.Edge) && k.Version == "" {
		groups = append(groups, telemetry.LabelDestinationVersion)
	}
	results := make([][5]map[string][]float64, len(groups))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i, by := range groups {
		for j, q := range queries(k, max(2*step, 2*time.Minute), by) {
			g.Go(func() (err error) {
				results[i][j], err = c.ask(ctx, q, by, &r)
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return history.Range{}, err
	}
	for i := range groups {
		for _, version := range versions(results[i][0]) {
			line := history.Series{Version: version, RPS: results[i][0][version]}
			column := func(j int) []float64 {
				if v := results[i][j][version]; v != nil {
					return v
				}
				return nothing(n)
			}
			failed := column(1)
			line.Success = nothing(n)
			for at, rps := range line.RPS {
				if rps > 0 {
					line.Success[at] = 1
					if failed[at] > 0 {
						line.Success[at] = max(1-failed[at]/rps, 0)
					}
				}
			}
			line.P50, line.P90, line.P99 = milliseconds(column(2)), milliseconds(column(3)), milliseconds(column(4))
			r.Series = append(r.Series, line)
		}
	}
	if len(r.Series) == 0 {
		none := nothing(n)
		r.Series = []history.Series{{RPS: none, Success: none, P50: none, P90: none, P99: none}}
	}
	return r, nil
}

func versions(m map[string][]float64) []string {
	out := make([]string, 0, len(m))
	for v := range m {
		out = append(out, v)
	}
	slices.Sort(out)
	return out[:min(len(out), maxLines)]
}

func nothing(n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = math.NaN()
	}
	return out
}

func milliseconds(v []float64) []float64 {
	for i := range v {
		v[i] *= 1000
	}
	return v
}

// ask runs one query over r and returns its columns by the value of the label by.
func (c *Client) ask(ctx context.Context, query, by string, r *history.Range) (map[string][]float64, error) {
	step := int64(r.Step / time.Second)
	end := r.Start.Unix() + int64(r.Points-1)*step
	form := url.Values{"query": {query}, "start": {strconv.FormatInt(r.Start.Unix(), 10)}, "end": {strconv.FormatInt(end, 10)}, "step": {strconv.FormatInt(step, 10)}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/api/v1/query_range", strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask Prometheus: %w", err)
	}
	defer res.Body.Close() // read only
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	if err != nil {
		return nil, fmt.Errorf("read Prometheus' answer: %w", err)
	}
	if len(body) > maxBody {
		return nil, fmt.Errorf("the answer of Prometheus is larger than %d bytes", maxBody)
	}
	return parse(body, res.Status, by, r)
}

// parse reads an answer of /api/v1/query_range.
func parse(body []byte, status, by string, r *history.Range) (map[string][]float64, error) {
	var a struct {
		Status string
		Error  string
		Data   struct {
			ResultType string
			Result     []struct {
				Metric map[string]string
				Values [][2]any
			}
		}
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, fmt.Errorf("prometheus answers %s, and no JSON of its API", status)
	}
	if a.Status != "success" || a.Data.ResultType != "matrix" {
		return nil, fmt.Errorf("prometheus answers %s: %.200s", status, a.Error)
	}
	out := map[string][]float64{}
	for _, line := range a.Data.Result {
		column := nothing(r.Points)
		for _, v := range line.Values {
			at, ok := v[0].(float64)
			text, is := v[1].(string)
			value, err := strconv.ParseFloat(text, 64)
			i := int(math.Round((at - float64(r.Start.Unix())) / r.Step.Seconds()))
			if !ok || !is || err != nil {
				return nil, fmt.Errorf("prometheus answers a point that is none: %.50v", v)
			}
			if i >= 0 && i < r.Points {
				column[i] = value
			}
		}
		out[line.Metric[by]] = column
	}
	return out, nil
}
