package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"
)

// bulk is what the generator of large answers reports.
type bulk struct {
	Bodies  int     `json:"bodies"`
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
}

// download asks for 10 MiB again and again on each connection, once at least and
// until length is over; what is under way then is counted to the end. A tunnel is what CONNECT
// is asked for first, for a proxy that is told so where opaque bytes go.
func download(addr, host, tunnel string, connections int, length time.Duration) (*bulk, error) {
	var (
		b     bulk
		mutex sync.Mutex
		errs  error
		all   sync.WaitGroup
	)
	begun := time.Now()
	for range connections {
		all.Go(func() {
			bodies, n, err := downloads(addr, host, tunnel, begun.Add(length))
			mutex.Lock()
			defer mutex.Unlock()
			b.Bodies += bodies
			b.Bytes += n
			errs = errors.Join(errs, err)
		})
	}
	all.Wait()
	b.Seconds = time.Since(begun).Seconds()
	return &b, errs
}

func downloads(addr, host, tunnel string, until time.Time) (bodies int, total int64, err error) {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return 0, 0, err
	}
	defer c.Close() // read to its end
	r := bufio.NewReaderSize(c, 256<<10)
	if tunnel != "" {
		if err := connect(c, r, tunnel); err != nil {
			return 0, 0, err
		}
	}
	request := get(host, pathBody)
	buf := make([]byte, 256<<10)
	for bodies == 0 || time.Now().Before(until) {
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			return bodies, total, err
		}
		if _, err := c.Write(request); err != nil {
			return bodies, total, err
		}
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return bodies, total, err
		}
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{res.Body}, buf)
		if err == nil && (res.StatusCode != http.StatusOK || n != bodySize) {
			err = fmt.Errorf("answered %s with %d bytes", res.Status, n)
		}
		if err := errors.Join(err, res.Body.Close()); err != nil {
			return bodies, total, err
		}
		bodies, total = bodies+1, total+n
	}
	return bodies, total, nil
}

// connect opens a tunnel through an HTTP proxy.
func connect(c net.Conn, r *bufio.Reader, to string) error {
	if _, err := fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", to, to); err != nil {
		return err
	}
	res, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("CONNECT %s: %s", to, res.Status)
	}
	return nil
}

// handshakes is what the generator of new connections reports.
type handshakes struct {
	Connections int     `json:"connections"`
	Resumed     int     `json:"resumed"`
	Group       string  `json:"group"` // of the key exchange
	Seconds     float64 `json:"seconds"`
}

// newConnections opens connections to a server's sidecar with the client's
// certificate in dir, has one request answered on each and closes it: workers
// at a time, full handshakes or resumed ones. The server is not verified: that
// is the load's own cost.
func newConnections(addr, host, dir, alpn string, resume bool, workers int, length time.Duration) (*handshakes, error) {
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key"))
	if err != nil {
		return nil, err
	}
	var (
		h     handshakes
		mutex sync.Mutex
		errs  error
		all   sync.WaitGroup
	)
	begun := time.Now()
	for range workers {
		config := &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ServerName: serverName,
			InsecureSkipVerify: true, //nolint:gosec // a load generator on loopback
		}
		if alpn != "" {
			config.NextProtos = []string{alpn}
		}
		if resume {
			config.ClientSessionCache = tls.NewLRUClientSessionCache(4)
		}
		all.Go(func() {
			for until := begun.Add(length); time.Now().Before(until); {
				state, err := newConnection(addr, host, config)
				mutex.Lock()
				if err != nil {
					errs = errors.Join(errs, err)
					mutex.Unlock()
					return
				}
				h.Connections++
				if state.DidResume {
					h.Resumed++
				}
				h.Group = state.CurveID.String()
				mutex.Unlock()
			}
		})
	}
	all.Wait()
	h.Seconds = time.Since(begun).Seconds()
	return &h, errs
}

func newConnection(addr, host string, config *tls.Config) (_ tls.ConnectionState, err error) {
	c, err := (&net.Dialer{Timeout: 5 * time.Second}).Dial("tcp", addr)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return tls.ConnectionState{}, err
	}
	t := tls.Client(c, config)
	if err := t.Handshake(); err != nil {
		return tls.ConnectionState{}, fmt.Errorf("handshake: %w", err)
	}
	if _, err := t.Write(get(host, pathSmall)); err != nil {
		return tls.ConnectionState{}, err
	}
	res, err := http.ReadResponse(bufio.NewReader(t), nil)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	n, err := io.Copy(io.Discard, res.Body)
	if err == nil && (res.StatusCode != http.StatusOK || n != 1024) {
		err = fmt.Errorf("answered %s with %d bytes", res.Status, n)
	}
	return t.ConnectionState(), errors.Join(err, res.Body.Close(), t.CloseWrite())
}
