package seinev1

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Type URLs of the resources that seined sends to seine-proxy.
const (
	TypeSelf     = "type.googleapis.com/seine.v1.Self"
	TypeAnswer   = "type.googleapis.com/seine.v1.Answer"
	TypeService  = "type.googleapis.com/seine.v1.Service"
	TypeEndpoint = "type.googleapis.com/seine.v1.Endpoint"
)

// SelfName is the only name of TypeSelf.
const SelfName = "self"

// MaxName bounds a resource's name in bytes.
const MaxName = 512

const maxHost = 253 // RFC 1035 §2.3.4, without the final dot

// ErrName is what every malformed name is.
var ErrName = errors.New("malformed resource name")

// AnswerName is a parsed name of an Answer: "http/PORT/HOST", "tls/PORT/SNI",
// for which SNI is set, or "addr/IP:PORT", for which Address is valid and Host
// is empty.
type AnswerName struct {
	Host    string // lower case, as the client wrote it, without port
	Port    uint16
	SNI     bool // Host is what a ClientHello names
	Address netip.AddrPort
}

// String returns the name that ParseAnswerName reads.
func (n AnswerName) String() string {
	if n.Address.IsValid() {
		return "addr/" + n.Address.String()
	}
	if n.SNI {
		return "tls/" + strconv.Itoa(int(n.Port)) + "/" + n.Host
	}
	return "http/" + strconv.Itoa(int(n.Port)) + "/" + n.Host
}

// ParseAnswerName reads the name of an Answer. There is one spelling of each
// name: upper case, leading zeros, zones and IPv4 in IPv6 are refused, so that
// nobody holds the same answer twice.
func ParseAnswerName(name string) (AnswerName, error) {
	if len(name) > MaxName {
		return AnswerName{}, fmt.Errorf("%w: longer than %d bytes", ErrName, MaxName)
	}
	kind, rest, _ := strings.Cut(name, "/")
	switch kind {
	case "http", "tls":
		digits, host, ok := strings.Cut(rest, "/")
		if !ok {
			return AnswerName{}, fmt.Errorf("%w: want %s/PORT/HOST", ErrName, kind)
		}
		port, err := parsePort(digits)
		if err != nil {
			return AnswerName{}, err
		}
		sni := kind == "tls"
		if err := checkHost(host, !sni); err != nil { // RFC 6066 §3: no address is a server's name
			return AnswerName{}, err
		}
		if sni && strings.HasPrefix(host, "*") {
			return AnswerName{}, fmt.Errorf("%w: a server's name is no wildcard", ErrName)
		}
		return AnswerName{Host: host, Port: port, SNI: sni}, nil
	case "addr":
		a, err := netip.ParseAddrPort(rest)
		if err != nil || a.Port() == 0 || a.Addr().Zone() != "" || a.Addr().Is4In6() || a.String() != rest {
			return AnswerName{}, fmt.Errorf("%w: want addr/IP:PORT with the address in its shortest form", ErrName)
		}
		return AnswerName{Address: a, Port: a.Port()}, nil
	}
	return AnswerName{}, fmt.Errorf("%w: want http/PORT/HOST, tls/PORT/SNI or addr/IP:PORT", ErrName)
}

// ServiceKey is the name of a Service and the key of its endpoints:
// "FQDN/PORT".
func ServiceKey(host string, port uint32) string {
	return host + "/" + strconv.FormatUint(uint64(port), 10)
}

// ParseServiceKey reads "FQDN/PORT"; the host may be a wildcard's ("*.example.com").
func ParseServiceKey(key string) (host string, port uint16, err error) {
	if len(key) > MaxName {
		return "", 0, fmt.Errorf("%w: longer than %d bytes", ErrName, MaxName)
	}
	host, digits, ok := strings.Cut(key, "/")
	if !ok {
		return "", 0, fmt.Errorf("%w: want FQDN/PORT", ErrName)
	}
	if port, err = parsePort(digits); err != nil {
		return "", 0, err
	}
	if err = checkHost(host, false); err != nil {
		return "", 0, err
	}
	return host, port, nil
}

// CollectionName is what the endpoints of a key are subscribed by: "FQDN/PORT/*".
func CollectionName(key string) string { return key + "/*" }

// ParseCollectionName returns the key of "FQDN/PORT/*".
func ParseCollectionName(name string) (key string, err error) {
	key, ok := strings.CutSuffix(name, "/*")
	if !ok {
		return "", fmt.Errorf("%w: want FQDN/PORT/*", ErrName)
	}
	if _, _, err := ParseServiceKey(key); err != nil {
		return "", err
	}
	return key, nil
}

// EndpointName is the name of one endpoint's resource: "FQDN/PORT/ID".
func EndpointName(key, id string) string { return key + "/" + id }

// ParseEndpointName splits "FQDN/PORT/ID"; the ID may hold slashes.
func ParseEndpointName(name string) (key, id string, err error) {
	if len(name) > MaxName {
		return "", "", fmt.Errorf("%w: longer than %d bytes", ErrName, MaxName)
	}
	first := strings.IndexByte(name, '/')
	if first < 0 {
		return "", "", fmt.Errorf("%w: want FQDN/PORT/ID", ErrName)
	}
	second := strings.IndexByte(name[first+1:], '/')
	if second < 0 {
		return "", "", fmt.Errorf("%w: want FQDN/PORT/ID", ErrName)
	}
	key, id = name[:first+1+second], name[first+second+2:]
	if id == "" || id == "*" {
		return "", "", fmt.Errorf("%w: want FQDN/PORT/ID", ErrName)
	}
	for i := 0; i < len(id); i++ {
		if id[i] <= ' ' || id[i] >= 0x7f {
			return "", "", fmt.Errorf("%w: an endpoint's ID is printable ASCII without spaces", ErrName)
		}
	}
	if _, _, err := ParseServiceKey(key); err != nil {
		return "", "", err
	}
	return key, id, nil
}

func parsePort(s string) (uint16, error) {
	if s == "" || len(s) > 5 || s[0] == '0' {
		return 0, fmt.Errorf("%w: the port is a number from 1 to 65535", ErrName)
	}
	n := 0
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, fmt.Errorf("%w: the port is a number from 1 to 65535", ErrName)
		}
		n = n*10 + int(s[i]-'0')
	}
	if n > 65535 {
		return 0, fmt.Errorf("%w: the port is a number from 1 to 65535", ErrName)
	}
	return uint16(n), nil
}

// checkHost takes what a Host header may hold once it is lower case and its
// port and brackets are cut off: a DNS name (underscores are seen in
// practice), an IPv4 address or, if literal is set, an IPv6 address.
func checkHost(h string, literal bool) error {
	if literal && strings.IndexByte(h, ':') >= 0 {
		a, err := netip.ParseAddr(h)
		if err != nil || a.Zone() != "" || strings.ToLower(h) != h {
			return fmt.Errorf("%w: not an IPv6 address", ErrName)
		}
		return nil
	}
	if !literal {
		h = strings.TrimPrefix(h, "*.")
	}
	if h == "" || len(h) > maxHost || h[0] == '.' || h[0] == '-' || h[len(h)-1] == '.' {
		return fmt.Errorf("%w: the host is 1 to %d bytes long and begins with a letter or digit", ErrName, maxHost)
	}
	for i := 0; i < len(h); i++ {
		switch c := h[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		case c == '.' && h[i-1] != '.':
		default:
			return fmt.Errorf("%w: a host holds lower-case letters, digits, '-', '_' and single dots", ErrName)
		}
	}
	return nil
}

// SystemVersion is what seined writes as a response's system_version_info: the
// generation, and "+" if more responses of the same batch follow. A proxy
// changes over when the last one is there, so that it never runs half a change.
func SystemVersion(generation uint64, more bool) string {
	s := strconv.FormatUint(generation, 10)
	if more {
		s += "+"
	}
	return s
}

// ParseSystemVersion reads SystemVersion; what it cannot read is generation 0.
func ParseSystemVersion(s string) (generation uint64, more bool) {
	digits, more := strings.CutSuffix(s, "+")
	generation, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return 0, more
	}
	return generation, more
}

// AcceptedHeader is the metadata key that seined sends at once on a discovery
// stream whose proxy it accepted.
const AcceptedHeader = "seine-accepted"
