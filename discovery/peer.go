package discovery

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/mesh"
	"github.com/seinemesh/seine/mtls"
)

// peer is who is at the other end, from a client certificate that the server's
// TLS has verified (mtls.Source.ServerTLS).
type peer struct {
	id       string // SPIFFE ID
	workload string // that the certificate was given to; "": it does not say
	address  string
	notAfter time.Time
	chain    []*x509.Certificate // leaf first
}

var errNoCertificate = errors.New("discovery wants a client certificate of the mesh: ask for one with CreateCertificate first")

func (s *Server) peerOf(ctx context.Context) (peer, error) {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return peer{}, errNoCertificate
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return peer{}, errNoCertificate
	}
	id := mtls.PeerID(info.State)
	if id == "" {
		return peer{}, errors.New("the client certificate is not one of this mesh: it must be verified and hold exactly one URI, a SPIFFE ID")
	}
	leaf := info.State.PeerCertificates[0]
	workload, err := mtls.Workload(leaf)
	if err != nil {
		return peer{}, err
	}
	return peer{id: id, workload: workload, address: p.Addr.String(), notAfter: leaf.NotAfter, chain: info.State.PeerCertificates}, nil
}

// authorize returns the workload of a node ID if the certificate was given to it. One
// that does not say to whom it was given must have the identity of the workload's
// service account: proxies keep what an authority of before gave them until it ends.
func authorize(snap *mesh.Snapshot, id string, p *peer) (*mesh.Workload, error) {
	if p.workload != "" && p.workload != id {
		return nil, status.Errorf(codes.PermissionDenied, "the certificate was given to %s, not to workload %s", p.workload, id)
	}
	if snap == nil {
		return nil, status.Error(codes.Unavailable, "the control plane has no configuration yet")
	}
	w := snap.Workload(id)
	if w == nil {
		return nil, status.Errorf(codes.NotFound, "workload %s is not in the mesh: no WorkloadEntry or Pod of that name is known", id)
	}
	if want := mesh.SPIFFE(snap.Settings.TrustDomain, w.Namespace, w.ServiceAccount); want != p.id {
		return nil, status.Errorf(codes.PermissionDenied, "the certificate is %s, but workload %s runs as %s", p.id, id, want)
	}
	return w, nil
}

// Admit says whether who is at the other end of ctx's gRPC stream is the proxy of
// workload id, and until when its certificate says so: for services that proxies
// use beside discovery.
func (s *Server) Admit(ctx context.Context, id string) (w *mesh.Workload, identity string, until time.Time, err error) {
	p, err := s.peerOf(ctx)
	if err != nil {
		return nil, "", until, status.Error(codes.Unauthenticated, err.Error())
	}
	if err := checkID(id); err != nil {
		return nil, "", until, status.Error(codes.InvalidArgument, err.Error())
	}
	if w, err = authorize(s.Snapshot(), id, &p); err != nil {
		return nil, "", until, err
	}
	return w, p.id, p.notAfter, nil
}

// checkID takes "NAMESPACE/INSTANCE" with names as Kubernetes has them.
func checkID(id string) error {
	namespace, instance, ok := strings.Cut(id, "/")
	if !ok || len(id) > seinev1.MaxName || !dnsName(namespace) || !dnsName(instance) {
		return fmt.Errorf("node id %s: want NAMESPACE/INSTANCE", logged(id))
	}
	return nil
}

func dnsName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '.':
		default:
			return false
		}
	}
	return true
}

// clean makes a version that a proxy claims fit to be shown and to be a label.
func clean(v string) string {
	if len(v) > 64 {
		v = v[:64]
	}
	return strings.Map(func(r rune) rune {
		if r > ' ' && r < 0x7f && r != '"' && r != '\\' {
			return r
		}
		return -1
	}, v)
}

// bounded makes a sentence of a proxy's fit to be shown: short, and of one line.
func bounded(s string) string {
	s = strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > 1024 {
		s = strings.ToValidUTF8(s[:1024], "") + "…"
	}
	return s
}
