package stat

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/seinemesh/seine/telemetry"
)

// Families lists the metrics that a Window reads: a scrape may be asked for
// these alone.
func Families() []string {
	return []string{
		telemetry.RequestsTotal, telemetry.FineDuration,
		telemetry.TCPConnectionsOpened, telemetry.TCPConnectionsClosed,
		telemetry.TCPSentBytes, telemetry.TCPReceivedBytes,
		telemetry.OutlierEjectedUntil, telemetry.RouteDuration,
	}
}

// ErrSyntax is wrapped by every error of a body that is not the Prometheus
// text format.
var ErrSyntax = errors.New("not the Prometheus text format")

// Bounds of the series that are kept: of one instance (what is read of it, 8 MiB,
// holds half as many of Seine's own), and of all.
const (
	maxSeries   = 50_000
	maxInterned = 4 << 20
)

// maxValue bounds a value: sums of values must stay finite.
const maxValue = 1e30

type kind uint8

const (
	requests kind = iota
	buckets
	opened
	closed
	sent
	received
	ejected
	routed
	numKinds
)

var kinds = [numKinds]string{
	requests: telemetry.RequestsTotal,
	buckets:  telemetry.FineDuration + "_bucket",
	opened:   telemetry.TCPConnectionsOpened,
	closed:   telemetry.TCPConnectionsClosed,
	sent:     telemetry.TCPSentBytes,
	received: telemetry.TCPReceivedBytes,
	ejected:  telemetry.OutlierEjectedUntil,
	routed:   telemetry.RouteDuration + "_bucket",
}

// edgeKey is who called whom, as one reporter saw it.
type edgeKey struct {
	source, destination Party
	host, name, ns      string
	version             string
}

// series is one line of an exposition without its value.
type series struct {
	kind     kind
	edge     edgeKey
	reporter string
	security string
	protocol protocols
	failed   bool    // requests: the outcome counts against the success rate
	le       float64 // buckets, routed
	route    Rule    // routed
	text     string  // the line without its value; the Window's
	users    int     // instances that have it; the Window's
}

// parse reads the lines of the families that matter and calls f for each, with
// the text of the series (good until f returns) and its value.
func parse(body []byte, f func(k kind, text []byte, labels []byte, value float64) error) error {
	for n := 1; len(body) > 0; n++ {
		line, rest, _ := bytes.Cut(body, []byte{'\n'})
		body = rest
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		k, labels, ok := family(line)
		if !ok {
			continue
		}
		// A brace may stand in a label's value, but not behind the labels.
		end := bytes.LastIndexByte(labels, '}')
		if end < 0 || end+2 > len(labels) || labels[end+1] != ' ' {
			return fmt.Errorf("line %d: labels do not end: %w", n, ErrSyntax)
		}
		number := labels[end+2:]
		if i := bytes.IndexByte(number, ' '); i >= 0 {
			number = number[:i] // a time stamp follows
		}
		v, err := strconv.ParseFloat(string(number), 64)
		if err != nil || !(v >= 0 && v < maxValue) {
			return fmt.Errorf("line %d: value %.32q: %w", n, number, ErrSyntax)
		}
		text := line[:len(line)-len(labels)+end]
		if err := f(k, text, labels[:end], v); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return nil
}

// family returns the kind of a line and what follows its opening brace.
func family(line []byte) (kind, []byte, bool) {
	for k, name := range kinds {
		if len(line) > len(name) && line[len(name)] == '{' && string(line[:len(name)]) == name {
			return kind(k), line[len(name)+1:], true
		}
	}
	return 0, nil, false
}

// parseSeries reads the labels of one series.
func parseSeries(k kind, labels []byte) (*series, error) {
	s := &series{kind: k}
	var code, flags string
	le := false
	err := eachLabel(labels, func(name, value string) (err error) {
		e := &s.edge
		switch name {
		case telemetry.LabelReporter:
			s.reporter = value
		case telemetry.LabelSourceWorkload:
			e.source.Workload = value
		case telemetry.LabelSourceWorkloadNamespace:
			e.source.Namespace = value
		case telemetry.LabelSourcePrincipal:
			e.source.Identity = value
		case telemetry.LabelDestinationWorkload:
			e.destination.Workload = value
		case telemetry.LabelDestinationWorkloadNamespace:
			e.destination.Namespace = value
		case telemetry.LabelDestinationPrincipal:
			e.destination.Identity = value
		case telemetry.LabelDestinationVersion:
			e.version = value
		case telemetry.LabelDestinationService:
			e.host = value
			s.route.Service = value
		case telemetry.LabelDestinationServiceName:
			e.name = value
		case telemetry.LabelDestinationServiceNamespace:
			e.ns = value
		case telemetry.LabelRequestProtocol:
			s.protocol = protocolsOf(value)
		case telemetry.LabelSecurityPolicy:
			s.security = value
		case telemetry.LabelResponseCode:
			code = value
		case telemetry.LabelResponseFlags:
			flags = value
		case telemetry.LabelRoute:
			s.route.ID = value
		case telemetry.LabelDestinationPort:
			port, err := strconv.ParseUint(value, 10, 16)
			if err != nil {
				return fmt.Errorf("port %.20q: %w", value, ErrSyntax)
			}
			s.route.Port = uint32(port)
		case telemetry.LabelClassification:
			s.failed = value == "failure"
		case "le":
			if s.le, err = strconv.ParseFloat(value, 64); err != nil || s.le != s.le {
				return fmt.Errorf("bucket %.20q: %w", value, ErrSyntax)
			}
			le = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if (k == buckets || k == routed) && !le {
		return nil, fmt.Errorf("a bucket without a bound: %w", ErrSyntax)
	}
	if k != routed {
		s.failed = failed(code, flags)
	}
	return s, nil
}

// eachLabel calls f for each label of a series.
func eachLabel(labels []byte, f func(name, value string) error) error {
	for len(labels) > 0 {
		name, rest, ok := bytes.Cut(labels, []byte(`="`))
		if !ok || len(name) == 0 {
			return fmt.Errorf("label %.40q: %w", labels, ErrSyntax)
		}
		value, after, err := unquote(rest)
		if err != nil {
			return fmt.Errorf("label %s: %w", name, err)
		}
		if len(after) > 0 && after[0] != ',' {
			return fmt.Errorf("label %s: no comma follows: %w", name, ErrSyntax)
		}
		if len(after) > 0 {
			after = after[1:]
		}
		labels = after
		if err := f(string(name), value); err != nil {
			return err
		}
	}
	return nil
}

// failed says whether an outcome counts against the success rate: a server's
// error, or no answer at all unless the client went away by itself.
func failed(code, flags string) bool {
	if code == "0" || code == "0xx" {
		return flags != "DC" && flags != "-"
	}
	return strings.HasPrefix(code, "5")
}

// unquote reads a label's value up to its closing quote.
func unquote(b []byte) (value string, rest []byte, err error) {
	end := bytes.IndexByte(b, '"')
	if end < 0 {
		return "", nil, fmt.Errorf("no closing quote: %w", ErrSyntax)
	}
	if bytes.IndexByte(b[:end], '\\') < 0 {
		return string(b[:end]), b[end+1:], nil
	}
	var v []byte
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			return string(v), b[i+1:], nil
		case '\\':
			if i++; i == len(b) {
				return "", nil, fmt.Errorf("ends in a backslash: %w", ErrSyntax)
			}
			switch b[i] {
			case 'n':
				v = append(v, '\n')
			case '\\', '"':
				v = append(v, b[i])
			default:
				return "", nil, fmt.Errorf("escape \\%c: %w", b[i], ErrSyntax)
			}
		default:
			v = append(v, b[i])
		}
	}
	return "", nil, fmt.Errorf("no closing quote: %w", ErrSyntax)
}
