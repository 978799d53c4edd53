package mtls

import (
	"crypto/tls"
	"crypto/x509"
)

// ClientTLS returns the client's side for gRPC (xDS): TLS 1.3, this source's
// certificate of the moment at each handshake, and a server that must be one of
// ids. serverName is the SNI. Sessions are not resumed.
func (s *Source) ClientTLS(serverName string, ids ...string) *tls.Config {
	c := s.base()
	c.ServerName = serverName
	c.SessionTicketsDisabled = true
	c.InsecureSkipVerify = true // VerifyConnection checks the identity instead of the host name
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if m := s.cur.Load(); m != nil {
			return m.cert, nil
		}
		return nil, ErrNoCertificate
	}
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		return s.verifyIs(cs.PeerCertificates, x509.ExtKeyUsageServerAuth, ids)
	}
	return c
}

// ServerTLS returns the server's side for gRPC: TLS 1.3 with this source's
// certificate of the moment. A client certificate is asked for; who sends one must
// be a workload of a trusted domain, who sends none is anonymous, and each service
// decides whether that will do: the CA's callers have nothing but a token yet, xDS
// demands an identity (PeerID). Sessions are not resumed, so that a retired root
// ends here too.
func (s *Source) ServerTLS() *tls.Config {
	c := s.base()
	c.SessionTicketsDisabled = true
	c.ClientAuth = tls.RequestClientCert
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if m := s.cur.Load(); m != nil {
			return m.cert, nil
		}
		return nil, ErrNoCertificate
	}
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return nil
		}
		_, err := s.verify(cs.PeerCertificates, x509.ExtKeyUsageClientAuth)
		return err
	}
	return c
}

// PeerID returns the identity in a connection that ServerTLS or ClientTLS made, ""
// for an anonymous one. The handshake has verified it.
func PeerID(cs tls.ConnectionState) string {
	if !cs.HandshakeComplete || len(cs.PeerCertificates) == 0 {
		return ""
	}
	id, err := leafID(cs.PeerCertificates[0])
	if err != nil {
		return ""
	}
	return id.String()
}
