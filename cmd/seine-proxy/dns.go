//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/dns"
	"github.com/seinemesh/seine/gate"
)

// dnsConnections bounds connections of DNS over TCP.
const dnsConnections = 64

// resolvConf names the resolvers of this network namespace, as the kubelet wrote it.
const resolvConf = "/etc/resolv.conf"

// serveDNS answers the workload's questions until life ends, if that is asked for:
// names of the mesh by table, and all others, also while there is no table yet, by
// whom the pod would have asked. It listens on the loopback device alone: nobody
// outside of the pod gets an answer, asked for or not. What fails later is sent to
// failed.
func serveDNS(life context.Context, o *options, table func() *decide.Table, log *slog.Logger, failed chan<- error) error {
	if o.dns == 0 {
		return nil
	}
	server := dns.New(dns.Options{
		Lookup: func(_ netip.Addr, name string) ([]netip.Addr, string) {
			if t := table(); t != nil && t.Self != nil {
				return t.Self.Named(name), ""
			}
			return nil, ""
		},
		Forward: dns.ReadUpstream(resolvConf).Exchange, Log: log,
	})
	port := strconv.Itoa(o.dns)
	for _, at := range []string{net.JoinHostPort("127.0.0.1", port), net.JoinHostPort("::1", port)} {
		pc, err := net.ListenPacket("udp", at)
		if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
			continue // no IPv6 here, and so nobody who asks by it
		}
		if err != nil {
			return fmt.Errorf("--dns: %w", err)
		}
		l, err := net.Listen("tcp", at)
		if err != nil {
			_ = pc.Close()
			return fmt.Errorf("--dns: %w", err)
		}
		go func() {
			if err := server.Serve(life, pc, gate.New(l, dnsConnections)); life.Err() == nil {
				failed <- err
			}
		}()
	}
	return nil
}
