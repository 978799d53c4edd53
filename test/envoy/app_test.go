//go:build envoy

package envoy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// try is a request as it reached the application.
type try struct {
	line     string
	fields   []string // "name: value", names in lower case, in the order of names, then of arrival
	body     string
	trailers string
}

// application answers by scripts: what it does with the tries of a request is said
// by that request's x-app field, a try for each part; the last part goes on for ever.
//
//	503                      an answer with that status
//	200 x-name: value        and fields, separated by |
//	reset, close             the connection is reset, or ended, instead of an answer
//	hang                     there is none
//	delay=300                after so many milliseconds: 200
//	raw:…                    these bytes, with \r and \n written out
type application struct {
	mu    sync.Mutex
	tries map[string][]try // by x-case
	who   map[string][]int // which instance had them
}

// instance is one endpoint's listener. always, if not "", is its script whatever the
// request says.
func (a *application) instance(t testing.TB, number int, always string) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var conns sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			conns.Go(func() {
				a.serve(c, number, always)
				_ = c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		conns.Wait()
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

// nobody is an address where nothing ever listens.
func nobody(t testing.TB) netip.AddrPort {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	must(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	sa, err := syscall.Getsockname(fd)
	must(t, err)
	in := sa.(*syscall.SockaddrInet4)
	return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port))
}

func (a *application) serve(c net.Conn, number int, always string) {
	r := bufio.NewReader(c)
	for {
		got, id, script, err := read(r, c)
		if err != nil {
			return
		}
		a.mu.Lock()
		n := len(a.tries[id])
		a.tries[id] = append(a.tries[id], got)
		a.who[id] = append(a.who[id], number)
		a.mu.Unlock()
		if always != "" {
			script = always
		}
		parts := strings.Split(script, ";")
		if !act(c, r, strings.TrimSpace(parts[min(n, len(parts)-1)]), strings.HasPrefix(got.line, "HEAD ")) {
			return
		}
	}
}

// act does one part of a script; false: the connection ends.
func act(c net.Conn, r *bufio.Reader, part string, head bool) bool {
	body := "from the application\n"
	switch {
	case part == "reset":
		_ = c.(*net.TCPConn).SetLinger(0)
		return false
	case part == "close":
		return false
	case part == "hang":
		_, _ = r.ReadByte() // until the caller goes
		return false
	case strings.HasPrefix(part, "raw:"):
		_, err := io.WriteString(c, strings.NewReplacer(`\r`, "\r", `\n`, "\n").Replace(part[4:]))
		return err == nil
	case strings.HasPrefix(part, "delay="):
		ms, _ := strconv.Atoi(part[len("delay="):])
		time.Sleep(time.Duration(ms) * time.Millisecond) // what it plays is a slow application
		part = "200"
	case part == "":
		part = "200"
	}
	status, fields, _ := strings.Cut(part, " ")
	code, _ := strconv.Atoi(status)
	out := fmt.Sprintf("HTTP/1.1 %d %s\r\nx-app: yes\r\n", code, http.StatusText(code))
	for _, f := range strings.Split(fields, "|") {
		if f = strings.TrimSpace(f); f != "" {
			out += f + "\r\n"
		}
	}
	if code == 204 || code == 304 {
		out += "\r\n"
	} else if out += fmt.Sprintf("content-length: %d\r\n\r\n", len(body)); !head {
		out += body
	}
	_, err := io.WriteString(c, out)
	return err == nil
}

// read takes one request as it came.
func read(r *bufio.Reader, c net.Conn) (got try, id, script string, err error) {
	var chunked, expects bool
	length := 0
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return got, "", "", err
		}
		line = strings.TrimRight(line, "\r\n")
		if got.line == "" {
			got.line = line
			continue
		}
		if line == "" {
			break
		}
		name, value, _ := strings.Cut(line, ":")
		name, value = strings.ToLower(name), strings.TrimSpace(value)
		got.fields = append(got.fields, name+": "+value)
		switch name {
		case "content-length":
			length, _ = strconv.Atoi(value)
		case "transfer-encoding":
			chunked = value == "chunked"
		case "expect":
			expects = true
		case "x-case":
			id = value
		case "x-app":
			script = value
		}
	}
	slices.SortStableFunc(got.fields, func(x, y string) int {
		a, _, _ := strings.Cut(x, ":")
		b, _, _ := strings.Cut(y, ":")
		return strings.Compare(a, b)
	})
	if expects {
		_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
	}
	if chunked {
		b, err := io.ReadAll(httputil.NewChunkedReader(r))
		if err != nil {
			return got, "", "", err
		}
		got.body = string(b)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return got, "", "", err
			}
			if line = strings.TrimRight(line, "\r\n"); line == "" {
				return got, id, script, nil
			}
			got.trailers += line + "\n"
		}
	}
	b := make([]byte, length)
	_, err = io.ReadFull(r, b)
	got.body = string(bytes.TrimSpace(b))
	return got, id, script, err
}

func (a *application) seen(id string) []try {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.tries[id])
}
