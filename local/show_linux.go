package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/seinemesh/seine/stat"
)

// How often the table is shown: live on a terminal, as plain lines elsewhere.
const (
	showLive  = time.Second
	showPlain = 10 * time.Second
)

// fallbackHeader heads the table where inbound traffic is not captured.
const fallbackHeader = "fallback: inbound not captured, STRICT not enforced"

// show shows the table until ctx ends.
func (r *runner) show(ctx context.Context) {
	every := showPlain
	if r.print.terminal {
		every = showLive
	}
	for {
		select {
		case <-r.clock.After(every):
		case <-ctx.Done():
			return
		}
		table, err := r.api.table(ctx)
		if ctx.Err() != nil {
			return
		}
		r.print.table(r.screen(table, err))
	}
}

// screen is what the table's place shows.
func (r *runner) screen(table *stat.Table, err error) string {
	var b strings.Builder
	o := stat.TextOptions{}
	height := 0
	if r.print.terminal {
		o.Color = os.Getenv("NO_COLOR") == ""
		o.Width, height = size()
		b.WriteString("\n")
	} else {
		fmt.Fprintf(&b, "--- %s\n", r.clock.Now().Format(time.TimeOnly))
	}
	if !r.world.isolated {
		b.WriteString(fallbackHeader + "\n")
	}
	switch {
	case err != nil:
		fmt.Fprintf(&b, "no table: seined does not answer; traffic goes on with what the proxies know\n")
	default:
		// A strings.Builder takes everything.
		_ = table.WriteText(&b, o)
	}
	for _, w := range r.waiting() {
		fmt.Fprintf(&b, "%s\n", cut("not ready: "+clean(w), o.Width))
	}
	if r.print.terminal {
		fmt.Fprintf(&b, "%s\n", cut("logs: "+filepath.Join(r.RunDir, logsDir)+"   Ctrl-C stops", o.Width))
	}
	if height > 2 {
		return top(b.String(), height-1)
	}
	return b.String()
}

func size() (width, height int) {
	width, height, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil {
		return 0, 0
	}
	return width, height
}

// cut shortens a line to width runes; 0 is no limit.
func cut(s string, width int) string {
	if r := []rune(s); width > 0 && len(r) > width {
		return string(r[:width-1]) + "…"
	}
	return s
}

// top keeps the first lines of text, so that a table never scrolls itself away.
func top(text string, lines int) string {
	parts := strings.SplitAfter(text, "\n")
	if len(parts) <= lines {
		return text
	}
	return strings.Join(parts[:lines], "")
}
