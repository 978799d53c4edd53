package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// An echo is what an HTTP server says of itself and of the request.
type echo struct {
	Host, Version               string
	Method, Path, Proto, Remote string
	Authority                   string
	Header                      http.Header
	ContentLength               int64
}

// serve answers on one port for each protocol until ctx ends; it then lets what
// is under way end.
func serve(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("serve", flag.ExitOnError)
	httpAddr := fs.String("http", ":8080", "address for HTTP/1.1 and cleartext HTTP/2")
	h2cAddr := fs.String("h2c", ":8082", "another address for the same")
	grpcAddr := fs.String("grpc", ":8081", "address for gRPC")
	echoAddr := fs.String("tcp", ":9000", "address that echoes each line")
	firstAddr := fs.String("server-first", ":9001", "address that greets before it echoes")
	udpAddr := fs.String("udp", ":9003", "address that echoes each datagram")
	httpsAddr := fs.String("https", "", "address for HTTPS under a certificate of its own making; empty: none")
	version := fs.String("version", os.Getenv("VERSION"), "what the answers say of the version")
	delay := fs.Duration("linger", 0, "how long to go on serving after SIGTERM")
	fs.Parse(args)

	host, err := os.Hostname()
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return serveHTTP(gctx, *httpAddr, *httpsAddr, host, *version, *delay) })
	g.Go(func() error { return serveHTTP(gctx, *h2cAddr, "", host, *version, *delay) })
	g.Go(func() error { return serveGRPC(gctx, *grpcAddr, cmp.Or(*version, host), *delay) })
	g.Go(func() error { return serveLines(gctx, *echoAddr, "", *delay) })
	g.Go(func() error { return serveLines(gctx, *firstAddr, "hello from "+cmp.Or(*version, host)+"\n", *delay) })
	g.Go(func() error { return serveDatagrams(gctx, *udpAddr) })
	return g.Wait()
}

// serveDatagrams sends every datagram back.
func serveDatagrams(ctx context.Context, addr string) error {
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	for b := make([]byte, 1500); ; {
		n, from, err := c.ReadFrom(b)
		if ctx.Err() != nil && err != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(b[:n], from); err != nil {
			return err
		}
	}
}

func serveHTTP(ctx context.Context, addr, secure, host, version string, linger time.Duration) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("content-type", "text/plain; version=0.0.4")
		fmt.Fprintf(w, "# TYPE workload_info gauge\nworkload_info{version=%q} 1\n", cmp.Or(version, host))
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if d, err := time.ParseDuration(r.URL.Query().Get("delay")); err == nil {
			select {
			case <-time.After(min(d, time.Minute)):
			case <-r.Context().Done():
			}
		}
		w.Header().Set("content-type", "application/json")
		w.Header().Set("x-version", cmp.Or(version, host))
		if code := r.URL.Query().Get("status"); len(code) == 3 {
			var status int
			if _, err := fmt.Sscanf(code, "%3d", &status); err == nil && status >= 200 {
				w.WriteHeader(status)
			}
		}
		// A client that went away is not the server's trouble.
		_ = json.NewEncoder(w).Encode(echo{host, version, r.Method, r.URL.Path, r.Proto, r.RemoteAddr, r.Host, r.Header, r.ContentLength})
	})
	s := &http.Server{Addr: addr, Handler: mux, Protocols: new(http.Protocols)}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	ended := context.AfterFunc(ctx, func() {
		time.Sleep(linger)
		_ = s.Shutdown(context.WithoutCancel(ctx))
	})
	defer ended()
	if secure != "" {
		cert, err := selfSigned()
		if err != nil {
			return err
		}
		ln, err := tls.Listen("tcp", secure, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
		if err != nil {
			return err
		}
		go func() { _ = s.Serve(ln) }()
	}
	log.Print("HTTP on ", addr)
	if err := s.ListenAndServe(); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// selfSigned is a certificate that nobody but the kubelet's probes takes.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), DNSNames: []string{"workload"}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

func serveGRPC(ctx context.Context, addr, who string, linger time.Duration) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	s.RegisterService(&echoService, echoServer(who))
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	stop := context.AfterFunc(ctx, func() {
		time.Sleep(linger)
		s.GracefulStop()
	})
	defer stop()
	return s.Serve(ln)
}

// serveLines greets each connection and sends every line back.
func serveLines(ctx context.Context, addr, greeting string, linger time.Duration) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		time.Sleep(linger)
		ln.Close()
	})
	defer stop()
	for {
		conn, err := ln.Accept()
		if ctx.Err() != nil && err != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if _, err := io.WriteString(conn, greeting); err != nil {
				return
			}
			for r := bufio.NewReader(conn); ; {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if _, err := io.WriteString(conn, line); err != nil {
					return
				}
			}
		}()
	}
}
