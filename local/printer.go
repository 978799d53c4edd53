package local

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode"
)

// printer is the one writer of the output: lines, and on a terminal a table
// that stays below them. Its methods may be called from anywhere and never wait
// for the terminal: when it is stuck (Ctrl-S), lines are dropped and counted.
type printer struct {
	out      io.Writer
	terminal bool
	queue    chan print
	done     chan struct{}

	mu      sync.Mutex
	dropped int
}

type print struct {
	text  string
	table bool
	leave bool // the table stays where it is, and what follows goes below it
}

const printQueue = 4096

func newPrinter(out io.Writer, terminal bool) *printer {
	p := &printer{out: out, terminal: terminal, queue: make(chan print, printQueue), done: make(chan struct{})}
	go p.run()
	return p
}

// close writes what is left and ends the printer. Nothing may print after it.
func (p *printer) close() {
	close(p.queue)
	<-p.done
}

func (p *printer) put(m print) {
	select {
	case p.queue <- m:
	default:
		p.mu.Lock()
		p.dropped++
		p.mu.Unlock()
	}
}

// event prints a line of seine's own.
func (p *printer) event(format string, args ...any) {
	p.put(print{text: clean(fmt.Sprintf(format, args...))})
}

// colours for prefixes; none of them is red, which means trouble.
var colours = []string{"\x1b[36m", "\x1b[33m", "\x1b[32m", "\x1b[35m", "\x1b[34m"}

// line prints a line of a program's output.
func (p *printer) line(who string, colour int, text string) {
	if p.terminal {
		p.put(print{text: colours[colour%len(colours)] + who + " |\x1b[0m " + clean(text)})
		return
	}
	p.put(print{text: who + " | " + clean(text)})
}

// table replaces the table on a terminal, and is printed anew elsewhere. text
// ends with a line feed.
func (p *printer) table(text string) { p.put(print{text: text, table: true}) }

// leave ends the table's life.
func (p *printer) leave() { p.put(print{leave: true}) }

// clean makes control characters visible, so that no program's output moves
// the cursor or colours the screen.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && unicode.IsControl(r) {
			return '·'
		}
		return r
	}, s)
}

func (p *printer) run() {
	defer close(p.done)
	below := "" // the table that is on the screen
	var b strings.Builder
	for m := range p.queue {
		b.Reset()
		if below != "" { // back to the table's first line, and clear to the end
			fmt.Fprintf(&b, "\x1b[%dA\x1b[J", strings.Count(below, "\n"))
		}
		for more := true; more; {
			switch {
			case m.leave:
				b.WriteString(below)
				below = ""
			case m.table && p.terminal:
				below = m.text
			case m.table:
				b.WriteString(m.text)
			default:
				b.WriteString(m.text + "\n")
			}
			select { // take what is there, so that the table is drawn once
			case m, more = <-p.queue:
			default:
				more = false
			}
		}
		p.mu.Lock()
		if p.dropped > 0 {
			fmt.Fprintf(&b, "(%d lines were not shown: the terminal was too slow)\n", p.dropped)
			p.dropped = 0
		}
		p.mu.Unlock()
		b.WriteString(below)
		// Nobody is left to tell when the output is gone.
		_, _ = io.WriteString(p.out, b.String())
	}
}
