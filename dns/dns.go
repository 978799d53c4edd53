// Package dns answers the names that workloads ask for: those of the mesh by what
// its owner looks up, others by asking a forwarder.
//
// In: questions over UDP and TCP. Out: answers. It is the resolver of `seine up`,
// and in a pod the sidecar's, where that was asked for. It must never know where the
// names of the mesh come from, nor ask anybody else about one.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// ttl is short: a name's meaning changes when a file is saved.
const ttl = 5 // seconds

// maxForwards bounds the questions that wait for the outside.
const maxForwards = 256

// Options say how to answer.
type Options struct {
	// Lookup finds the addresses of a name, in lower case and without its last dot,
	// for the client with that address. With some it is answered so. Without any
	// the forwarder is asked, unless zone says that the name is the mesh's and does
	// not exist: the domain that it would lie in. Called from many goroutines.
	Lookup func(from netip.Addr, name string) (addrs []netip.Addr, zone string)
	// Forward asks the outside; nil: there is no outside.
	Forward func(context.Context, *dns.Msg) (*dns.Msg, error)
	Log     *slog.Logger // nil: discard
}

// Server answers questions. Its methods may be called from any goroutine.
type Server struct {
	opt   Options
	slots chan struct{}

	mu     sync.Mutex
	warned map[string]bool // names said to have no answer, bounded
}

// New makes a Server.
func New(opt Options) *Server {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{opt: opt, slots: make(chan struct{}, maxForwards), warned: map[string]bool{}}
}

// Serve answers on pc and l until ctx ends, and closes both.
func (s *Server) Serve(ctx context.Context, pc net.PacketConn, l net.Listener) error {
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { s.handle(ctx, w, q) })
	servers := []*dns.Server{{PacketConn: pc, Handler: handler}, {Listener: l, Handler: handler}}
	errs := make(chan error, len(servers))
	for _, server := range servers {
		go func() { errs <- server.ActivateAndServe() }()
	}
	var err error
	n := len(servers)
	select {
	case <-ctx.Done():
	case err = <-errs:
		n--
	}
	// Closing the sockets stops a server even if it has not begun.
	pc.Close()
	l.Close()
	for range n {
		<-errs
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("dns: %w", err)
}

func (s *Server) handle(ctx context.Context, w dns.ResponseWriter, q *dns.Msg) {
	reply := s.Answer(ctx, client(w.RemoteAddr()), q)
	size := dns.MaxMsgSize
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		size = dns.MinMsgSize
		if o := q.IsEdns0(); o != nil {
			size = max(size, int(o.UDPSize()))
		}
	}
	reply.Truncate(size)
	if err := w.WriteMsg(reply); err != nil {
		s.opt.Log.Debug("dns: write answer", "err", err)
	}
}

func client(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// Answer answers one question of the client with that address. The answer is
// never nil.
func (s *Server) Answer(ctx context.Context, from netip.Addr, q *dns.Msg) *dns.Msg {
	reply := new(dns.Msg)
	reply.SetReply(q)
	reply.RecursionAvailable = true
	if q.Opcode != dns.OpcodeQuery || len(q.Question) != 1 || q.Question[0].Qclass != dns.ClassINET {
		reply.Rcode = dns.RcodeNotImplemented
		return reply
	}
	question := q.Question[0]
	name := strings.ToLower(strings.TrimSuffix(question.Name, "."))
	addrs, zone := s.opt.Lookup(from, name)
	switch {
	case len(addrs) > 0:
		reply.Authoritative = true
		reply.Answer = records(question, addrs)
		return reply
	case zone != "":
		reply.Authoritative = true
		reply.Rcode = dns.RcodeNameError
		reply.Ns = []dns.RR{authority(zone)}
		return reply
	}
	return s.forward(ctx, q, reply, name)
}

// records are the addresses of the question's family, in random order; there
// are none for other types: the name exists, the record does not (RFC 2308 §2.2).
func records(q dns.Question, addrs []netip.Addr) []dns.RR {
	var out []dns.RR
	for _, a := range addrs {
		switch {
		case a.Is4() && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeANY):
			out = append(out, &dns.A{Hdr: header(q.Name, dns.TypeA), A: net.IP(a.AsSlice())})
		case a.Is6() && (q.Qtype == dns.TypeAAAA || q.Qtype == dns.TypeANY):
			out = append(out, &dns.AAAA{Hdr: header(q.Name, dns.TypeAAAA), AAAA: net.IP(a.AsSlice())})
		}
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

func header(name string, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
}

// authority lets resolvers keep a "no such name" for ttl, too (RFC 2308 §3).
func authority(domain string) dns.RR {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: dns.Fqdn(domain), Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		Ns:  "ns.dns." + dns.Fqdn(domain), Mbox: "hostmaster." + dns.Fqdn(domain),
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttl,
	}
}

// ErrNoResolver is what a forwarder returns that knows nobody to ask.
var ErrNoResolver = errors.New("the host has no DNS resolver")

func (s *Server) forward(ctx context.Context, q, reply *dns.Msg, name string) *dns.Msg {
	if s.opt.Forward == nil {
		return s.refuse(reply, name, ErrNoResolver)
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		reply.Rcode = dns.RcodeServerFailure
		return reply
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	answer, err := s.opt.Forward(ctx, q)
	if err != nil {
		return s.refuse(reply, name, err)
	}
	answer.Id = q.Id
	return answer
}

// refuse says once for each name, in the log, why it has no answer.
func (s *Server) refuse(reply *dns.Msg, name string, err error) *dns.Msg {
	reply.Rcode = dns.RcodeServerFailure
	if errors.Is(err, ErrNoResolver) {
		reply.Rcode = dns.RcodeNameError
	}
	s.mu.Lock()
	said := s.warned[name]
	if !said && len(s.warned) < 1024 {
		s.warned[name] = true
	}
	s.mu.Unlock()
	if !said {
		s.opt.Log.Warn("a name outside the mesh has no answer", "name", name, "err", err)
	}
	return reply
}
