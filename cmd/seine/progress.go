package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/seinemesh/seine/install/deploy"
)

// progress shows the steps of an installation: on a terminal the current one on
// a line that is written over, elsewhere a line when something is new.
type progress struct {
	out      io.Writer
	terminal bool
	width    int
	last     string
	open     bool // the current line has no end yet
}

func newProgress(out io.Writer) *progress {
	p := &progress{out: out}
	if f, ok := out.(*os.File); ok && os.Getenv("TERM") != "dumb" {
		width, _, err := term.GetSize(int(f.Fd()))
		p.terminal, p.width = err == nil, width
	}
	return p
}

// event shows one event.
func (p *progress) event(e deploy.Event) {
	mark := "…"
	switch {
	case e.Note:
		mark = "!"
	case e.Done:
		mark = "✓"
	}
	text := e.Step
	if e.Detail != "" {
		if text != "" {
			text += ": "
		}
		text += e.Detail
	}
	if !e.Done && !e.Note && text == p.last {
		return // no news
	}
	p.last = text
	line := fmt.Sprintf("%6.1fs %s %s", e.At.Seconds(), mark, text)
	if !p.terminal {
		if e.Done || e.Note || !fleeting(e) {
			fmt.Fprintln(p.out, line)
		}
		return
	}
	if p.open {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
	if e.Done || e.Note {
		fmt.Fprintln(p.out, line)
		p.open = false
		return
	}
	if r := []rune(line); p.width > 1 && len(r) >= p.width {
		line = string(r[:p.width-2]) + "…"
	}
	fmt.Fprint(p.out, line)
	p.open = true
}

// fleeting events are worth no line of their own in a log.
func fleeting(e deploy.Event) bool {
	return len(e.Detail) > 6 && (e.Detail[:6] == "apply " || e.Step == "definitions" || e.Step == "remove")
}

// end ends an open line.
func (p *progress) end() {
	if p.open {
		fmt.Fprintln(p.out)
		p.open = false
	}
}

// seconds is how people read a duration here.
func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
