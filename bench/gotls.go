package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
)

// The plane "go-tls" is what the server's sidecar can cost in Go at the least: a
// goroutine for each connection, crypto/tls with the same settings, a request and
// its answer passed on as they are over a kept connection to the backend. No
// routes, no metrics, nothing is parsed but where a head ends.

func startGoTLS(ctx context.Context, e *env) (*pair, error) {
	ports, err := freePorts("127.0.0.1", 2)
	if err != nil {
		return nil, err
	}
	p := &pair{target: ports[0], host: hostHeader, server: ports[1]}
	c, err := start(e.dir, e.tools.self, "go-tls", ports[0], ports[1], e.backend, e.dir)
	if err != nil {
		return nil, err
	}
	p.proxy = append(p.proxy, c)
	for _, addr := range ports {
		if err := waitListen(ctx, c, addr); err != nil {
			p.stop()
			return nil, err
		}
	}
	return p, nil
}

func runGoTLS(args []string) error {
	if len(args) != 4 {
		return errors.New("usage: bench go-tls PLAIN-IP:PORT TLS-IP:PORT BACKEND DIR")
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(args[3], "server.crt"), filepath.Join(args[3], "server.key"))
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(filepath.Join(args[3], "ca.pem"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return errors.New("no roots in ca.pem")
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots,
	}
	s := &passer{backend: args[2], length: len(answer())}
	plain, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	secure, err := net.Listen("tcp", args[1])
	if err != nil {
		return err
	}
	go s.serve(plain, nil)
	return s.serve(secure, config)
}

// passer passes requests on over kept connections.
type passer struct {
	backend string
	length  int // of an answer: the backend's are all alike
	mu      sync.Mutex
	idle    []net.Conn
}

func (s *passer) serve(l net.Listener, config *tls.Config) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		if config != nil {
			c = tls.Server(c, config)
		}
		go func() {
			defer c.Close() // the load's next connection does not wait for it
			s.pass(c)
		}()
	}
}

// pass serves one connection until it ends or something is not as this load is.
func (s *passer) pass(c net.Conn) {
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		if err != nil || !bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
			return
		}
		answer, err := s.ask(buf, n)
		if err != nil {
			return
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// ask has the backend answer buf[:n], and returns the answer within buf.
func (s *passer) ask(buf []byte, n int) ([]byte, error) {
	s.mu.Lock()
	var b net.Conn
	if k := len(s.idle); k > 0 {
		b, s.idle = s.idle[k-1], s.idle[:k-1]
	}
	s.mu.Unlock()
	if b == nil {
		var err error
		if b, err = net.Dial("tcp", s.backend); err != nil {
			return nil, err
		}
	}
	if _, err := b.Write(buf[:n]); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	if _, err := io.ReadFull(b, buf[:s.length]); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	s.mu.Lock()
	s.idle = append(s.idle, b)
	s.mu.Unlock()
	return buf[:s.length], nil
}
