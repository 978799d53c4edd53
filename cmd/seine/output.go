package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// outputs are what -o takes where a table can be shown as data.
var outputs = []string{"text", "wide", "json", "yaml"}

func checkOutput(output string) error {
	if !slices.Contains(outputs, output) {
		return fmt.Errorf("output %q is none of %s", output, strings.Join(outputs, ", "))
	}
	return nil
}

// isData says whether an output is for programs.
func isData(output string) bool { return output == "json" || output == "yaml" }

// writeData writes v for programs.
func writeData(w io.Writer, output string, v any) error {
	if output == "yaml" {
		b, err := yaml.Marshal(v)
		if err == nil {
			_, err = w.Write(append([]byte("---\n"), b...))
		}
		return err
	}
	enc := json.NewEncoder(escaped{w})
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// escaped writes JSON on, with what steers a terminal as escapes: encoding/json
// leaves DEL, C1 (0x9b begins a sequence as ESC [ does) and changes of direction as
// they are. Whoever reads the JSON sees no difference.
type escaped struct{ w io.Writer }

func (e escaped) Write(p []byte) (int, error) {
	steers := func(r rune) bool { return r >= 0x7f && r <= 0xffff && r != utf8.RuneError && !strconv.IsPrint(r) }
	if !bytes.ContainsFunc(p, steers) {
		return e.w.Write(p)
	}
	var b []byte
	for _, r := range string(p) {
		if steers(r) {
			b = fmt.Appendf(b, "\\u%04x", r)
		} else {
			b = utf8.AppendRune(b, r)
		}
	}
	if _, err := e.w.Write(b); err != nil {
		return 0, err
	}
	return len(p), nil
}

// row writes a line of a table. Names, paths and messages are written by proxies and
// their callers, and a matcher by whoever may write a route.
func row(w io.Writer, cells ...string) {
	for i := range cells {
		cells[i] = printable(cells[i])
	}
	fmt.Fprintln(w, strings.Join(cells, "\t"))
}

// printable takes out what would steer a terminal, or begin a line or a column.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// completeOutput completes -o.
func completeOutput(cmd *cobra.Command) {
	// An error says that there is no such flag.
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputs, cobra.ShellCompDirectiveNoFileComp))
}

// fetchJSON asks the control plane for a path and reads the answer into v.
func (c *controlFlags) fetchJSON(ctx context.Context, path string, v any) error {
	client, base, err := c.client(ctx)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	body, err := get(ctx, client, base+path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("the control plane's answer is not understood: %w; is it of the same version as this program?", err)
	}
	return nil
}

// completeNames completes an argument with names that the control plane lists.
func completeNames(list func(ctx context.Context) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		const none = cobra.ShellCompDirectiveNoFileComp
		if len(args) > 0 {
			return nil, none
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeWait)
		defer cancel()
		names, err := list(ctx)
		if err != nil {
			return nil, none
		}
		return names, none
	}
}

// again writes what show writes, and with watch once a second until ctx ends, on a
// terminal in the same place.
func again(ctx context.Context, out io.Writer, watch bool, output string, show func(io.Writer) error) error {
	_, terminal := terminalWidth(out)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for first := true; ; first = false {
		var b strings.Builder
		if watch && terminal && !isData(output) {
			b.WriteString("\x1b[H\x1b[2J")
		}
		if err := show(&b); err != nil {
			if !first && ctx.Err() != nil {
				return nil // Ctrl-C
			}
			return err
		}
		if _, err := io.WriteString(out, b.String()); err != nil || !watch {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
