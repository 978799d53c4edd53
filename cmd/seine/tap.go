package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/seinemesh/seine/stat"
	"github.com/seinemesh/seine/tap"
)

// maxTapLine bounds one line of the control plane's.
const maxTapLine = 256 << 10

// tapQuiet is how long a stream may be silent; it says that it is alive each 10 s.
const tapQuiet = 30 * time.Second

// tapOptions are the flags of `seine tap`.
type tapOptions struct {
	control                           controlFlags
	query                             tap.Query
	namespace, to, toNS, from, fromNS string
	output, color                     string
}

// tapCommand is `seine tap`: live requests.
func tapCommand() *cobra.Command {
	var t tapOptions
	cmd := &cobra.Command{
		Use:   "tap [deploy/NAME | pod/NAME | ns/NAME]",
		Short: "Show requests live as they end, as the proxies see them",
		Long: `Show the requests that the proxies of a workload, a pod or a namespace (of all,
if none is named) serve and send from now on: source, destination, method, path,
status, latency, identity, and if one failed why. A call between two sidecars is
seen twice, once from each side; --direction shows one.

The values of header fields and the query of a path are redacted unless asked for;
those of fields that authenticate somebody never leave the proxy. At most --max-rps
requests a second are shown, and what is left out is counted.

In a cluster, who may tap is who may forward a port to the control plane's pods
(RBAC: create pods/portforward in its namespace).`,
		Example: `  seine tap deploy/billing-v2 -n shop
  seine tap ns/shop --status 5xx
  seine tap deploy/frontend --to svc/billing-service --min-latency 100ms -o wide
  seine tap --path /api --method POST --header user-agent --header-value x-user -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := t.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), args); err != nil {
				return fmt.Errorf("tap: %w", err)
			}
			return nil
		},
		ValidArgsFunction: completeLive(&t.control, func(p stat.Party) string { return "deploy/" + p.Workload }),
	}
	f := cmd.Flags()
	t.control.add(f, "address")
	f.StringVarP(&t.namespace, "namespace", "n", "", "namespace of what is named (default: any)")
	f.StringVar(&t.query.Direction, "direction", "", "inbound or outbound (default: both)")
	f.StringVar(&t.to, "to", "", "only calls to this svc/NAME, deploy/NAME, pod/NAME or ns/NAME")
	f.StringVar(&t.toNS, "to-namespace", "", "namespace of --to")
	f.StringVar(&t.from, "from", "", "only calls from this deploy/NAME, pod/NAME or ns/NAME")
	f.StringVar(&t.fromNS, "from-namespace", "", "namespace of --from")
	f.StringSliceVar(&t.query.Methods, "method", nil, "only these methods")
	f.StringVar(&t.query.Path, "path", "", "only paths that begin so, or with * paths like this pattern")
	f.StringVar(&t.query.Authority, "authority", "", "only this host[:port]; * stands for anything")
	f.StringSliceVar(&t.query.Status, "status", nil, "only these: 503, 5xx, 500-504")
	f.DurationVar(&t.query.MinLatency, "min-latency", 0, "only requests that took at least so long")
	f.IntVar(&t.query.MaxRPS, "max-rps", tap.DefaultRate, fmt.Sprintf("show at most so many requests a second (1 to %d)", tap.MaxRate))
	f.StringSliceVar(&t.query.Headers, "header", nil, "show whether these header fields are there (with -o wide, json, yaml)")
	f.StringSliceVar(&t.query.HeaderValues, "header-value", nil, "show these header fields with their values")
	f.BoolVar(&t.query.FullPath, "query", false, "show the query of paths too")
	f.StringVarP(&t.output, "output", "o", "text", "text, wide, json (a line each) or yaml")
	f.StringVar(&t.color, "color", "auto", "auto, always or never")
	workloads := completeLive(&t.control, func(p stat.Party) string { return "deploy/" + p.Workload })
	namespaces := completeLive(&t.control, func(p stat.Party) string { return p.Namespace })
	for name, complete := range map[string]cobra.CompletionFunc{
		"to": workloads, "from": workloads, "namespace": namespaces, "to-namespace": namespaces, "from-namespace": namespaces,
		"direction": cobra.FixedCompletions([]string{"inbound", "outbound"}, cobra.ShellCompDirectiveNoFileComp),
		"output":    cobra.FixedCompletions([]string{"text", "wide", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp),
	} {
		_ = cmd.RegisterFlagCompletionFunc(name, complete) // an error says that there is no such flag
	}
	return cmd
}

// question is what the flags and the argument ask for.
func (t *tapOptions) question(args []string) (*tap.Query, error) {
	q := t.query
	q.Namespace = t.namespace
	if len(args) > 0 {
		of, err := tap.ParseTarget(args[0], t.namespace, "pod")
		if err != nil {
			return nil, err
		}
		if of.Service != "" {
			return nil, fmt.Errorf("%s: a service has no proxy of its own: name a workload, or use --to %s", args[0], args[0])
		}
		if of.Pod != "" && of.Namespace == "" {
			of.Namespace = "default"
		}
		q.Namespace, q.Workload, q.Pod = of.Namespace, of.Workload, of.Pod
	}
	var err error
	if q.To, err = tap.ParseTarget(t.to, t.toNS, "svc"); err != nil {
		return nil, err
	}
	if q.From, err = tap.ParseTarget(t.from, t.fromNS, "pod"); err != nil {
		return nil, err
	}
	return tap.ParseQuery(q.Values())
}

func (t *tapOptions) run(ctx context.Context, out, notes io.Writer, args []string) error {
	q, err := t.question(args)
	if err != nil {
		return err
	}
	show, err := t.printer(out)
	if err != nil {
		return err
	}
	return t.watch(ctx, notes, q, show)
}

// watch calls show for each request that a tap shows, until ctx ends or show
// fails. It is called by one goroutine.
func (t *tapOptions) watch(ctx context.Context, notes io.Writer, q *tap.Query, show func(*tap.Request) error) error {
	targets, err := t.control.targets(ctx, true)
	if err != nil {
		return err
	}
	// Each replica's proxies show to it alone: all of them are asked.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines, ended := make(chan replicaLine), make(chan error, len(targets))
	for i := range targets {
		go func() { ended <- watchTap(ctx, &targets[i], q, lines) }()
	}
	var failed error
	notice := tapNotice{out: notes, replicas: map[string]tap.Lost{}, proxies: map[string]int{}, of: len(targets)}
	for left := len(targets); left > 0; {
		select {
		case l := <-lines:
			if failed != nil {
				continue
			}
			if l.Request != nil {
				failed = show(l.Request)
			} else {
				notice.take(l)
			}
			if failed != nil {
				cancel()
			}
		case err := <-ended:
			left--
			if err != nil && ctx.Err() == nil {
				failed = errors.Join(failed, err)
				if left > 0 {
					fmt.Fprintln(notes, "tap:", err)
				}
			}
		}
	}
	if ctx.Err() != nil && (failed == nil || errors.Is(failed, context.Canceled)) {
		return nil // Ctrl-C
	}
	return failed
}

// printer returns what writes a request in the format that was asked for.
func (t *tapOptions) printer(out io.Writer) (func(*tap.Request) error, error) {
	text := tap.TextOptions{Wide: t.output == "wide"}
	switch _, terminal := terminalWidth(out); t.color {
	case "auto":
		text.Color = terminal && os.Getenv("NO_COLOR") == ""
	case "always":
		text.Color = true
	case "never":
	default:
		return nil, fmt.Errorf("color %q is none of auto, always, never", t.color)
	}
	switch t.output {
	case "text", "wide":
		return func(r *tap.Request) error { return r.WriteText(out, text) }, nil
	case "json":
		enc := json.NewEncoder(escaped{out})
		enc.SetEscapeHTML(false)
		return func(r *tap.Request) error { return enc.Encode(r) }, nil
	case "yaml":
		return func(r *tap.Request) error {
			body, err := yaml.Marshal(r)
			if err == nil {
				_, err = out.Write(append([]byte("---\n"), body...))
			}
			return err
		}, nil
	}
	return nil, fmt.Errorf("output %q is none of text, wide, json, yaml", t.output)
}

// replicaLine is a line, and the replica that said it.
type replicaLine struct {
	tap.Line
	replica string
}

// watchTap sends a replica's lines until ctx or the stream ends.
func watchTap(ctx context.Context, to *target, q *tap.Query, lines chan<- replicaLine) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	client := *to.Client
	client.Timeout = 0 // of whole answers; this one has no end
	defer client.CloseIdleConnections()
	quiet := time.AfterFunc(tapQuiet, func() {
		cancel(fmt.Errorf("the control plane %shas said nothing for %s", of(to.name), tapQuiet))
	})
	defer quiet.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to.base+"/api/v1/tap?"+q.Values().Encode(), nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("the control plane %sdoes not answer: %w; is a mesh running (seine up), or does a flag name another one?", of(to.name), cause(ctx, err))
	}
	defer res.Body.Close() // read only
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		var said struct{ Error string }
		if json.Unmarshal(body, &said) == nil && said.Error != "" {
			return errors.New(strings.TrimPrefix(said.Error, "tap: "))
		}
		return fmt.Errorf("the control plane %sanswers %s: %.200s", of(to.name), res.Status, bytes.TrimSpace(body))
	}
	in := bufio.NewScanner(res.Body)
	in.Buffer(nil, maxTapLine)
	for in.Scan() {
		quiet.Reset(tapQuiet)
		l := replicaLine{replica: to.name}
		if err := json.Unmarshal(in.Bytes(), &l.Line); err != nil {
			return fmt.Errorf("the control plane's line is not understood: %w; is it of the same version as this program?", err)
		}
		if l.Type == tap.TypeEnded {
			return fmt.Errorf("the control plane %sended the tap: %s", of(to.name), l.Error)
		}
		select {
		case lines <- l:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("the stream of the control plane %sbroke off: %w", of(to.name), cause(ctx, err))
	}
	return fmt.Errorf("the control plane %sended the tap", of(to.name))
}

// cause is why ctx ended, if it did; else err.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		return c
	}
	return err
}

func of(replica string) string {
	if replica == "" {
		return ""
	}
	return replica + " "
}

// tapNotice tells, beside the requests, how many proxies show and what was left out.
type tapNotice struct {
	out      io.Writer
	of       int // replicas
	proxies  map[string]int
	said     int
	replicas map[string]tap.Lost
	told     bool
}

func (n *tapNotice) take(l replicaLine) {
	switch {
	case l.Started != nil:
		n.proxies[l.replica] = l.Proxies
		sum := 0
		for _, p := range n.proxies {
			sum += p
		}
		if len(n.proxies) < n.of || sum == n.said && n.told {
			return
		}
		n.said, n.told = sum, true
		switch sum {
		case 0:
			fmt.Fprintln(n.out, "tap: no connected proxy is of that name (deploy/NAME is a workload, pod/NAME or NAME one instance of it); those that come will show")
		case 1:
			fmt.Fprintln(n.out, "tap: 1 proxy shows")
		default:
			fmt.Fprintf(n.out, "tap: %d proxies show\n", sum)
		}
	case l.Lost != nil:
		before := n.replicas[l.replica]
		n.replicas[l.replica] = *l.Lost
		if d := l.Limited - before.Limited; d > 0 {
			fmt.Fprintf(n.out, "tap: %d requests more than --max-rps were left out\n", d)
		}
		if d := l.Dropped - before.Dropped; d > 0 {
			fmt.Fprintf(n.out, "tap: %d requests were lost on the way: more than could be sent or read\n", d)
		}
	}
}
