package mtls

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// serve drives s over a real socket as an echo server or a client that sends say and
// collects the echo, until the peer closes.
func serve(conn net.Conn, s *Session, say []byte) (heard []byte, err error) {
	defer s.Release()
	chunks := make(chan []byte)
	read := chunks
	quit := make(chan struct{})
	gone := make(chan struct{})
	defer func() { close(quit); conn.Close(); <-gone }()
	go func() {
		defer close(gone)
		defer close(read)
		for {
			p := make([]byte, 777) // never at a record's boundary
			n, err := conn.Read(p)
			if n > 0 {
				select {
				case read <- p[:n]:
				case <-quit:
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	flush := func() error {
		for out := s.Outgoing(); len(out) > 0; out = s.Outgoing() {
			n, err := conn.Write(out[:min(len(out), 4096)])
			if err != nil {
				return err
			}
			s.Sent(n)
		}
		return nil
	}
	s.Handshake(func(*Session) {})
	open := false
	scratch := make([]byte, 4096)
	for {
		if !open {
			st, err := s.Progress()
			if ferr := flush(); st == Failed {
				return heard, errors.Join(err, ferr)
			}
			if st == Established {
				open = true
				if _, err := s.Write(say); err != nil {
					return heard, err
				}
				if err := flush(); err != nil {
					return heard, err
				}
			}
		}
		in := chunks
		if s.Room() < 777 {
			in = nil
		}
		select {
		case <-time.After(20 * time.Second):
			return heard, errors.New("timeout")
		case p, ok := <-in:
			if !ok && !open {
				chunks = nil
				s.Abort(io.ErrUnexpectedEOF)
				if st, err := s.Progress(); st == Failed {
					return heard, err
				}
				continue
			}
			if !ok {
				return heard, io.ErrUnexpectedEOF
			}
			if err := s.Feed(p); err != nil {
				return heard, err
			}
		}
		for open {
			n, err := s.Read(scratch)
			heard = append(heard, scratch[:n]...)
			if say == nil && n > 0 {
				if _, err := s.Write(scratch[:n]); err != nil {
					return heard, err
				}
			}
			if ferr := flush(); ferr != nil {
				return heard, ferr
			}
			if err == ErrEmpty {
				break
			}
			if err != nil {
				if err == io.EOF {
					err = errors.Join(s.Close(), flush())
				}
				return heard, err
			}
			if say != nil && len(heard) == len(say) {
				return heard, errors.Join(s.Close(), flush())
			}
		}
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

type served struct {
	heard []byte
	err   error
}

// TestServerWithPlainClient: crypto/tls over a socket against a server of ours.
func TestServerWithPlainClient(t *testing.T) {
	ca := newTestCA(t)
	f := ca.factory(t, bob)
	l := listen(t)
	for _, tc := range []struct {
		name string
		conf func(*tls.Config)
		fail bool
	}{
		{"mutual TLS", func(*tls.Config) {}, false},
		{"without MLKEM", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519} }, false},
		{"HelloRetryRequest", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP384, tls.CurveP256} }, false},
		{"TLS 1.2", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, true},
		{"no certificate", func(c *tls.Config) { c.Certificates = nil }, true},
		{"foreign ALPN", func(c *tls.Config) { c.NextProtos = []string{"h2"} }, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ended := make(chan served, 1)
			go func() {
				conn, err := l.Accept()
				if err != nil {
					ended <- served{nil, err}
					return
				}
				heard, err := serve(conn, f.Server(), nil)
				ended <- served{heard, err}
			}()
			conf := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"istio"}, Certificates: []tls.Certificate{ca.leaf(t, nil, alice)}}
			tc.conf(conf)
			conn, err := tls.Dial("tcp", l.Addr().String(), conf)
			data := []byte(strings.Repeat("sixteen bytes.. ", 20000)) // many large records
			if err == nil {
				var got []byte
				go conn.Write(data)
				got = make([]byte, len(data))
				if _, err = io.ReadFull(conn, got); err == nil && !bytes.Equal(got, data) {
					err = errors.New("another echo")
				}
				if err == nil {
					err = conn.CloseWrite()
				}
				if err == nil {
					if _, e := conn.Read(got); e != io.EOF {
						err = errors.Join(errors.New("no close_notify"), e)
					}
				}
				conn.Close()
			}
			if (err != nil) != tc.fail {
				t.Errorf("client: %v", err)
			}
			if r := <-ended; (r.err != nil) != tc.fail {
				t.Errorf("server: %v", r.err)
			}
		})
	}
}

// TestClientWithPlainServer: a client of ours against crypto/tls over a socket.
func TestClientWithPlainServer(t *testing.T) {
	ca := newTestCA(t)
	f := ca.factory(t, alice)
	l := listen(t)
	for _, tc := range []struct {
		name string
		conf func(*tls.Config)
		want error
		fail bool
	}{
		{"mutual TLS", func(*tls.Config) {}, nil, false},
		{"TLS 1.2", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, nil, true},
		{"another identity", func(c *tls.Config) { c.Certificates = []tls.Certificate{ca.leaf(t, nil, carol)} }, ErrUnexpectedPeer, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conf := &tls.Config{ClientAuth: tls.RequireAnyClientCert, Certificates: []tls.Certificate{ca.leaf(t, nil, bob)}, NextProtos: []string{"istio"}}
			tc.conf(conf)
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				conn, err := l.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				s := tls.Server(conn, conf)
				if s.Handshake() == nil {
					io.Copy(s, s)
				}
			}()
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			say := []byte(strings.Repeat("hello ", 5000))
			heard, err := serve(conn, client(f, bob), say)
			if (err != nil) != tc.fail || tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("%v", err)
			}
			if !tc.fail && !bytes.Equal(heard, say) {
				t.Errorf("%d bytes of echo, %d expected", len(heard), len(say))
			}
			<-gone
		})
	}
}
