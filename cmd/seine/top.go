package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/seinemesh/seine/stat"
	"github.com/seinemesh/seine/tap"
)

// topCommand is `seine top`: the requests that are made most, live.
func topCommand() *cobra.Command {
	t := topOptions{tap: tapOptions{output: "text", color: "never"}}
	cmd := &cobra.Command{
		Use:   "top [deploy/NAME | pod/NAME | ns/NAME]",
		Short: "Show which requests are made most now: who, what path, how long, how well",
		Long: `Watch requests as they are made (a tap) and count them by caller, destination,
method and path, the path without its query: number, success, and the least, latest
and greatest latency. At most --max-rps requests a second are looked at, so counts
are of those; seine stat has the rates of all.

On a terminal the table is shown each second until Ctrl-C; elsewhere once, after
--for.`,
		Example: `  seine top deploy/frontend -n shop
  seine top ns/shop --for 10s -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := t.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), args); err != nil {
				return fmt.Errorf("top: %w", err)
			}
			return nil
		},
		ValidArgsFunction: completeLive(&t.tap.control, func(p stat.Party) string { return "deploy/" + p.Workload }),
	}
	f := cmd.Flags()
	t.tap.control.add(f, "address")
	f.StringVarP(&t.tap.namespace, "namespace", "n", "", "namespace of what is named (default: any)")
	f.StringVar(&t.tap.query.Direction, "direction", "outbound", "inbound or outbound: from which side requests are seen")
	f.StringVar(&t.tap.query.Path, "path", "", "only paths that begin so, or with * paths like this pattern")
	f.StringSliceVar(&t.tap.query.Methods, "method", nil, "only these methods")
	f.IntVar(&t.tap.query.MaxRPS, "max-rps", tap.MaxRate, fmt.Sprintf("look at at most so many requests a second (1 to %d)", tap.MaxRate))
	f.DurationVar(&t.span, "for", 0, "stop after so long (default: on a terminal never, elsewhere 10s)")
	f.IntVar(&t.rows, "rows", 20, "show at most so many lines; 0: all")
	f.StringVarP(&t.output, "output", "o", "text", "text, wide, json or yaml")
	completeOutput(cmd)
	return cmd
}

type topOptions struct {
	tap    tapOptions
	span   time.Duration
	rows   int
	output string
}

func (t *topOptions) run(ctx context.Context, out, notes io.Writer, args []string) error {
	if err := checkOutput(t.output); err != nil {
		return err
	}
	q, err := t.tap.question(args)
	if err != nil {
		return err
	}
	width, live := terminalWidth(out)
	live = live && !isData(t.output)
	if t.span == 0 && !live {
		t.span = 10 * time.Second
	}
	parent := ctx
	var cancel context.CancelFunc
	if t.span > 0 {
		ctx, cancel = context.WithTimeout(ctx, t.span)
		defer cancel()
	}
	var c requestCount
	var wg sync.WaitGroup
	watched, stop := context.WithCancel(ctx)
	defer wg.Wait()
	defer stop()
	if live {
		wg.Go(func() {
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for {
				select {
				case <-watched.Done():
					return
				case <-tick.C:
					var b strings.Builder
					b.WriteString("\x1b[H\x1b[2J")
					_ = c.write(&b, t.rows, width, t.output == "wide") // to memory
					_, _ = io.WriteString(out, b.String())
				}
			}
		})
	}
	if err := t.tap.watch(ctx, notes, q, func(r *tap.Request) error { c.add(r); return nil }); err != nil && (ctx.Err() == nil || parent.Err() != nil) {
		return err
	}
	stop()
	wg.Wait()
	switch {
	case isData(t.output):
		return writeData(out, t.output, c.list(t.rows))
	case live:
		return nil // it is there already
	}
	return c.write(out, t.rows, 0, t.output == "wide")
}

// maxTopRows bounds what is counted apart; the rest is counted together.
const maxTopRows = 5000

// topRow is what is counted together. Its JSON form is stable.
type topRow struct {
	Source      string  `json:"source"`
	Destination string  `json:"destination"`
	Method      string  `json:"method"`
	Path        string  `json:"path"`
	Rule        string  `json:"rule,omitempty"`
	Count       int     `json:"count"`
	Best        float64 `json:"best_ms"`
	Worst       float64 `json:"worst_ms"`
	Last        float64 `json:"last_ms"`
	Success     float64 `json:"success"` // 0..1
	good        int
}

// requestCount counts requests. Safe for several goroutines; its zero value is
// empty.
type requestCount struct {
	mu   sync.Mutex
	rows map[[4]string]*topRow
	over int
}

func (c *requestCount) add(r *tap.Request) {
	path, _, _ := strings.Cut(r.Path, "?")
	k := [4]string{sideName(&r.Source), cmp.Or(sideName(&r.Destination), shortHost(r.Service)), r.Method, path}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rows == nil {
		c.rows = map[[4]string]*topRow{}
	}
	x := c.rows[k]
	if x == nil {
		if len(c.rows) >= maxTopRows {
			c.over++
			return
		}
		x = &topRow{Source: k[0], Destination: k[1], Method: k[2], Path: k[3], Best: r.LatencyMS}
		c.rows[k] = x
	}
	x.Count++
	x.Best, x.Worst, x.Last = min(x.Best, r.LatencyMS), max(x.Worst, r.LatencyMS), r.LatencyMS
	x.Rule = r.Rule
	if r.Status > 0 && r.Status < 500 && (r.GRPCStatus == nil || *r.GRPCStatus == 0) {
		x.good++
	}
}

// sideName is NAMESPACE/WORKLOAD, or what is known.
func sideName(p *tap.Party) string {
	switch {
	case p.Workload == "" || p.Workload == "unknown":
		return cmp.Or(p.Address, "outside")
	case p.Namespace == "":
		return p.Workload
	}
	return p.Namespace + "/" + p.Workload
}

// list is the rows that were counted most, at most so many; 0: all.
func (c *requestCount) list(most int) []topRow {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := []topRow{}
	for _, x := range c.rows {
		row := *x
		row.Success = float64(x.good) / float64(x.Count)
		out = append(out, row)
	}
	slices.SortFunc(out, func(a, b topRow) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Source, b.Source), cmp.Compare(a.Destination, b.Destination), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Method, b.Method))
	})
	if most > 0 && len(out) > most {
		out = out[:most]
	}
	return out
}

func (c *requestCount) write(w io.Writer, rows, width int, wide bool) error {
	list := c.list(rows)
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "No request has been seen yet.")
		return err
	}
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	head := "COUNT\tSUCCESS\tBEST\tLAST\tWORST\tSOURCE\tDESTINATION\tMETHOD\tPATH"
	if wide {
		head += "\tRULE"
	}
	fmt.Fprintln(tw, head)
	for _, x := range list {
		cells := []string{strconv.Itoa(x.Count), fmt.Sprintf("%.1f%%", x.Success*100), fmt.Sprintf("%.2f ms", x.Best), fmt.Sprintf("%.2f ms", x.Last), fmt.Sprintf("%.2f ms", x.Worst),
			x.Source, x.Destination, x.Method, x.Path}
		if wide {
			cells = append(cells, cmp.Or(x.Rule, "-"))
		}
		row(tw, cells...)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(b.String()) {
		line = strings.TrimRight(line, " \n")
		if r := []rune(line); width > 0 && len(r) > width {
			line = string(r[:width-1]) + "…"
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	if c.over > 0 {
		_, err := fmt.Fprintf(w, "and %d requests of more than %d kinds\n", c.over, maxTopRows)
		return err
	}
	return nil
}
