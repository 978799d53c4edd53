package main

import (
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
	"golang.org/x/term"

	"github.com/seinemesh/seine/stat"
)

// maxStatBody bounds a control plane's answer.
const maxStatBody = 64 << 20

// statCommand is `seine stat`: the golden signals of a running mesh.
func statCommand() *cobra.Command {
	var s statOptions
	cmd := &cobra.Command{
		Use:   "stat",
		Short: "Show requests, success, latency, traffic share and mTLS of a running mesh",
		Long: `Show, for each service and version: requests per second, success rate, latency
quantiles, share of the service's traffic, and whether it is mutual TLS between
which identities. -o wide adds a row for each edge with whole SPIFFE IDs.`,
		Example: `  seine stat                     of the mesh that "seine up" runs, or of the cluster
  seine stat --watch             once a second until Ctrl-C
  seine stat --address http://127.0.0.1:15016 -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	s.control.add(f, "address")
	f.StringVarP(&s.output, "output", "o", "text", "text, wide, json or yaml")
	completeOutput(cmd)
	f.BoolVarP(&s.watch, "watch", "w", false, "show it again each second")
	f.StringVar(&s.color, "color", "auto", "auto, always or never")
	return cmd
}

type statOptions struct {
	control       controlFlags
	output, color string
	watch         bool
}

func (s *statOptions) run(ctx context.Context, out io.Writer) error {
	text, err := s.text(out)
	if err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if err := s.live(ctx, out, func(b *strings.Builder, client *http.Client, base string) error {
		t, body, err := table(ctx, client, base)
		if err != nil {
			return err
		}
		switch s.output {
		case "json":
			b.Write(body)
			b.WriteByte('\n')
			return nil
		case "yaml":
			return writeData(b, s.output, t)
		}
		if err := t.WriteText(b, text); err != nil {
			return err
		}
		writeSlow(ctx, b, client, base, text)
		return nil
	}); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	return nil
}

// text checks the flags and says how to print.
func (s *statOptions) text(out io.Writer) (stat.TextOptions, error) {
	text := stat.TextOptions{Wide: s.output == "wide"}
	width, terminal := terminalWidth(out)
	switch s.output {
	case "text":
		text.Width = width
	default:
		if err := checkOutput(s.output); err != nil {
			return text, err
		}
	}
	switch s.color {
	case "auto":
		text.Color = terminal && os.Getenv("NO_COLOR") == ""
	case "always":
		text.Color = true
	case "never":
	default:
		return text, fmt.Errorf("color %q is none of auto, always, never", s.color)
	}
	return text, nil
}

// live prints what show writes, and with --watch again each second.
func (s *statOptions) live(ctx context.Context, out io.Writer, show func(b *strings.Builder, client *http.Client, base string) error) error {
	client, base, err := s.control.client(ctx)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	_, terminal := terminalWidth(out)
	once := func() error {
		var b strings.Builder
		if s.watch && terminal && !isData(s.output) {
			b.WriteString("\x1b[H\x1b[2J")
		}
		if err := show(&b, client, base); err != nil {
			return err
		}
		_, err := io.WriteString(out, b.String())
		return err
	}
	if err := once(); err != nil || !s.watch {
		return err
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := once(); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}

// table asks for the golden signals; body is the answer as it came.
func table(ctx context.Context, client *http.Client, base string) (t *stat.Table, body []byte, err error) {
	if body, err = get(ctx, client, base+"/api/v1/stat"); err != nil {
		return nil, nil, err
	}
	t = &stat.Table{}
	if err := json.Unmarshal(body, t); err != nil {
		return nil, nil, fmt.Errorf("the control plane's answer is not a table: %w; is it of the same version as this program?", err)
	}
	return t, bytes.TrimSpace(body), nil
}

func get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the control plane does not answer: %w; is a mesh running (seine up), or does a flag name another one?", err)
	}
	defer res.Body.Close() // read only
	body, err := io.ReadAll(io.LimitReader(res.Body, maxStatBody))
	if err != nil {
		return nil, fmt.Errorf("the control plane's answer breaks off: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, refusedBy(res.Status, body)
	}
	return body, nil
}

// refusedBy is what the control plane said instead of an answer: its own sentence if
// it is one of ours.
func refusedBy(status string, body []byte) error {
	var said struct{ Error string }
	if json.Unmarshal(body, &said) == nil && said.Error != "" {
		return errors.New(printable(said.Error))
	}
	return fmt.Errorf("the control plane answers %s: %.200s", status, printable(strings.TrimSpace(string(body))))
}

// terminalWidth returns the columns of the terminal that out is; false if none.
func terminalWidth(out io.Writer) (int, bool) {
	f, ok := out.(*os.File)
	if !ok {
		return 0, false
	}
	width, _, err := term.GetSize(int(f.Fd()))
	return width, err == nil
}
