package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// An asker makes one request and returns who answered, and the whole answer.
type asker func(ctx context.Context) (who, answer string, err error)

// target holds the flags that say what to ask, and how.
type target struct {
	protocol, host string
	headers        headers
	reuse          bool
	timeout        time.Duration
}

func (t *target) flags(fs *flag.FlagSet) {
	fs.StringVar(&t.protocol, "protocol", "http", "http, h2c, grpc, tcp, server-first or udp")
	fs.StringVar(&t.host, "host", "", "Host of an HTTP request, unless the URL's")
	fs.Var(&t.headers, "header", "NAME=VALUE, sent with each HTTP request; may be repeated")
	fs.BoolVar(&t.reuse, "keepalive", true, "send HTTP requests on the same connections")
	fs.DurationVar(&t.timeout, "timeout", 5*time.Second, "of one request")
}

type headers http.Header

func (h *headers) String() string { return "" }

func (h *headers) Set(s string) error {
	name, value, ok := strings.Cut(s, "=")
	if !ok {
		return errors.New("want NAME=VALUE")
	}
	if *h == nil {
		*h = headers{}
	}
	http.Header(*h).Add(name, value)
	return nil
}

// asker returns what asks address: a URL for http and h2c, else host:port.
func (t *target) asker(address string) (asker, error) {
	switch t.protocol {
	case "http", "h2c":
		return t.http(address), nil
	case "grpc":
		return t.grpc(address)
	case "tcp":
		return t.lines(address, false), nil
	case "server-first":
		return t.lines(address, true), nil
	case "udp":
		return datagram(address), nil
	}
	return nil, fmt.Errorf("unknown protocol %q", t.protocol)
}

func (t *target) http(url string) asker {
	transport := &http.Transport{
		DisableKeepAlives: !t.reuse, MaxIdleConnsPerHost: 64, Protocols: new(http.Protocols),
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	transport.Protocols.SetHTTP1(t.protocol == "http")
	transport.Protocols.SetUnencryptedHTTP2(t.protocol == "h2c")
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return func(ctx context.Context) (string, string, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return "", "", err
		}
		req.Host = t.host
		if t.headers != nil {
			req.Header = http.Header(t.headers).Clone()
		}
		stage := newStage()
		res, err := client.Do(req.WithContext(httptrace.WithClientTrace(ctx, stage.trace())))
		if err != nil {
			return "", "", stage.says(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return "", "", err
		}
		if res.StatusCode != http.StatusOK {
			return "", "", fmt.Errorf("status %d: %s", res.StatusCode, strings.TrimSpace(string(body)))
		}
		return cmp.Or(res.Header.Get("x-version"), "ok"), string(body), nil
	}
}

// stage is how far a request has come: where a time-out caught it.
type stage struct{ at atomic.Pointer[string] }

func newStage() *stage {
	s := &stage{}
	s.reach("before it began")
	return s
}

func (s *stage) reach(where string) { s.at.Store(&where) }

func (s *stage) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		DNSStart:     func(httptrace.DNSStartInfo) { s.reach("looking the name up") },
		ConnectStart: func(string, string) { s.reach("connecting") },
		WroteRequest: func(httptrace.WroteRequestInfo) { s.reach("waiting for the answer") },
	}
}

// says adds the stage to a time-out's error.
func (s *stage) says(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", *s.at.Load(), context.DeadlineExceeded)
	}
	return err
}

func (t *target) grpc(address string) (asker, error) {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (string, string, error) {
		var out wrapperspb.StringValue
		if err := conn.Invoke(ctx, echoMethod, wrapperspb.String("hello"), &out); err != nil {
			return "", "", err
		}
		who, _, _ := strings.Cut(out.Value, " ")
		return who, out.Value + "\n", nil
	}, nil
}

// lines sends one line on a new connection and wants it back, after the
// server's greeting if it speaks first.
func (t *target) lines(address string, greeted bool) asker {
	return func(ctx context.Context) (string, string, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return "", "", err
		}
		defer conn.Close()
		if deadline, ok := ctx.Deadline(); ok {
			if err := conn.SetDeadline(deadline); err != nil {
				return "", "", err
			}
		}
		r := bufio.NewReader(conn)
		who := "ok"
		if greeted {
			line, err := r.ReadString('\n')
			if err != nil {
				return "", "", fmt.Errorf("no greeting: %w", err)
			}
			who = strings.TrimSpace(strings.TrimPrefix(line, "hello from "))
		}
		if _, err := io.WriteString(conn, "ping\n"); err != nil {
			return "", "", err
		}
		line, err := r.ReadString('\n')
		if err != nil {
			return "", "", fmt.Errorf("no echo: %w", err)
		}
		if line != "ping\n" {
			return "", "", fmt.Errorf("echoed %q", line)
		}
		return who, who + "\n", nil
	}
}

// datagram sends one, and wants it back.
func datagram(address string) asker {
	return func(ctx context.Context) (string, string, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "udp", address)
		if err != nil {
			return "", "", err
		}
		defer conn.Close()
		if deadline, ok := ctx.Deadline(); ok {
			if err := conn.SetDeadline(deadline); err != nil {
				return "", "", err
			}
		}
		if _, err := io.WriteString(conn, "ping"); err != nil {
			return "", "", err
		}
		b := make([]byte, 16)
		n, err := conn.Read(b)
		if err == nil && string(b[:n]) != "ping" {
			err = fmt.Errorf("echoed %q", b[:n])
		}
		if err != nil {
			return "", "", fmt.Errorf("no echo: %w", err)
		}
		return "ok", "ok\n", nil
	}
}

// call asks one address some times and prints the answers; it ends at the
// first failure.
func call(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("call", flag.ExitOnError)
	var t target
	t.flags(fs)
	n := fs.Int("n", 1, "number of requests")
	fs.Parse(args)
	ask, err := t.asker(fs.Arg(0))
	if err != nil {
		return err
	}
	for range *n {
		ctx, cancel := context.WithTimeout(ctx, t.timeout)
		_, answer, err := ask(ctx)
		cancel()
		if err != nil {
			return err
		}
		fmt.Fprint(os.Stdout, answer)
	}
	return nil
}
