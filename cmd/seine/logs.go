package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/seinemesh/seine/cluster"
	"github.com/seinemesh/seine/local/rundir"
)

// logsCommand is `seine logs`: what the control plane or a proxy wrote.
func logsCommand() *cobra.Command {
	var l logsOptions
	cmd := &cobra.Command{
		Use:   "logs [NAMESPACE/INSTANCE]",
		Short: "Show the logs of the control plane, or of the proxy of an instance",
		Long: `Show what the control plane wrote, of all its replicas, or what the sidecar of one
instance wrote: from the run folder of the mesh that "seine up" runs on this
machine, or else from the cluster.`,
		Example: `  seine logs -f                        the control plane
  seine logs shop/billing-v1-1 --tail 50
  seine logs shop/billing-v1-1 --app   the application itself
  seine logs --grep 'level=(WARN|ERROR)'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := l.run(cmd.Context(), cmd.OutOrStdout(), args); err != nil {
				return fmt.Errorf("logs: %w", err)
			}
			return nil
		},
		ValidArgsFunction: completeNames(func(ctx context.Context) ([]string, error) {
			list, err := l.control.proxies(ctx)
			out := []string{}
			for _, p := range list {
				out = append(out, p.ID)
			}
			return out, err
		}),
	}
	f := cmd.Flags()
	l.control.cluster.AddFlags(f)
	f.StringVar(&l.control.namespace, "system-namespace", cluster.Namespace, "namespace of the cluster's control plane")
	f.StringVar(&l.dir, "run-dir", "", "run folder of the mesh that \"seine up\" runs")
	f.BoolVarP(&l.follow, "follow", "f", false, "go on with what is written from now on")
	f.IntVar(&l.tail, "tail", 200, "show at most so many of the last lines; -1: all")
	f.StringVar(&l.grep, "grep", "", "only lines that this regular expression matches")
	f.BoolVar(&l.app, "app", false, "the application's own output instead of its sidecar's")
	return cmd
}

type logsOptions struct {
	control     controlFlags
	dir, grep   string
	follow, app bool
	tail        int
	match       *regexp.Regexp
}

// maxLogLine bounds a line; a longer one is an error.
const maxLogLine = 1 << 20

func (l *logsOptions) run(ctx context.Context, out io.Writer, args []string) (err error) {
	if l.match, err = regexp.Compile(l.grep); err != nil {
		return fmt.Errorf("--grep: %w", err)
	}
	namespace, instance := "", ""
	if len(args) > 0 {
		var ok bool
		if namespace, instance, ok = strings.Cut(args[0], "/"); !ok || namespace == "" || instance == "" || strings.ContainsAny(args[0], `\ `) || strings.Contains(instance, "/") || strings.HasPrefix(namespace, ".") {
			return fmt.Errorf("%q is not NAMESPACE/INSTANCE, such as shop/billing-v1-1 (seine proxies lists them)", args[0])
		}
	} else if l.app {
		return errors.New("--app is about an instance: name it")
	}
	dir := l.dir
	if dir == "" && l.control.cluster == (cluster.Options{}) && answers(defaultSocket()) {
		dir = rundir.Default()
	}
	if dir != "" {
		name := "seined"
		if instance != "" {
			if name = namespace + "." + instance; !l.app {
				name += ".proxy"
			}
		}
		return l.file(ctx, out, rundir.Log(dir, name))
	}
	cfg, err := l.control.cluster.Config()
	if errors.Is(err, cluster.ErrNoCluster) && l.control.cluster == (cluster.Options{}) {
		return errNoControl
	}
	if err != nil {
		return err
	}
	if instance != "" {
		container := "seine-proxy"
		if l.app {
			container = ""
		}
		r, err := cluster.Logs(ctx, cfg, namespace, instance, container, l.follow, l.tail)
		if err != nil {
			return err
		}
		defer r.Close()
		return l.copy(out, r, "")
	}
	pods, err := cluster.Replicas(ctx, cfg, l.control.namespace)
	if err != nil {
		return err
	}
	var g sync.WaitGroup
	w := &lockedWriter{w: out}
	failed := make([]error, len(pods))
	for i, pod := range pods {
		g.Go(func() {
			r, err := cluster.Logs(ctx, cfg, l.control.namespace, pod, "seined", l.follow, l.tail)
			if err != nil {
				failed[i] = err
				return
			}
			defer r.Close()
			prefix := ""
			if len(pods) > 1 {
				prefix = pod + " "
			}
			failed[i] = l.copy(w, r, prefix)
		})
	}
	g.Wait()
	if ctx.Err() != nil {
		return nil // Ctrl-C
	}
	return errors.Join(failed...)
}

// lockedWriter takes whole lines from several goroutines.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// copy writes the lines that match.
func (l *logsOptions) copy(out io.Writer, r io.Reader, prefix string) error {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLogLine)
	for s.Scan() {
		if err := l.line(out, s.Bytes(), prefix); err != nil {
			return err
		}
	}
	return s.Err()
}

func (l *logsOptions) line(out io.Writer, line []byte, prefix string) error {
	if !l.match.Match(line) {
		return nil
	}
	_, err := out.Write(append(append([]byte(prefix), line...), '\n'))
	return err
}

// followEvery is how often a file is looked at for more.
const followEvery = 200 * time.Millisecond

// file shows a log file of `seine up`, and with -f goes on, also where the file
// is begun anew because it was full.
func (l *logsOptions) file(ctx context.Context, out io.Writer, path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no log %s: is the name right (seine proxies), and does the mesh run?", filepath.Base(path))
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	body, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	var last [][]byte
	whole := body[:bytes.LastIndexByte(body, '\n')+1]
	rest := slices.Clone(body[len(whole):])
	for line := range bytes.Lines(whole) {
		if line = bytes.TrimRight(line, "\n"); l.match.Match(line) {
			last = append(last, line)
		}
	}
	if l.tail >= 0 && len(last) > l.tail {
		last = last[len(last)-l.tail:]
	}
	for _, line := range last {
		if err := l.line(out, line, ""); err != nil {
			return err
		}
	}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for l.follow {
		more, err := io.ReadAll(io.LimitReader(f, maxLogLine))
		if err != nil {
			return err
		}
		rest = append(rest, more...)
		for {
			line, after, ok := bytes.Cut(rest, []byte{'\n'})
			if !ok {
				break
			}
			if err := l.line(out, line, ""); err != nil {
				return err
			}
			rest = after
		}
		if len(rest) > maxLogLine {
			return errors.New("a line is longer than is read")
		}
		if len(more) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the mesh has ended
		}
		if old, e := f.Stat(); err == nil && e == nil && !os.SameFile(old, now) {
			next, err := os.Open(path)
			if err != nil {
				return err
			}
			_ = f.Close()
			f, rest = next, nil
		}
	}
	return nil
}
