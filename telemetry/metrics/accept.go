package metrics

import (
	"io"
	"mime"
	"strconv"
	"strings"
)

// Format is one that metrics are written in.
type Format uint8

// The formats, in the order in which one is taken where a scraper likes several
// alike.
const (
	Text Format = iota
	OpenMetrics
	Protobuf
)

// ContentType is the Content-Type of a format.
func (f Format) ContentType() string {
	switch f {
	case OpenMetrics:
		return ContentTypeOpenMetrics
	case Protobuf:
		return ContentTypeProtobuf
	}
	return ContentType
}

// Accepted is the format that an Accept header likes best, Text if it likes none.
// Prometheus asks for OpenMetrics before text, and for protobuf before both when
// native histograms are on.
func Accepted(accept string) Format {
	var like [Protobuf + 1]float64
	for i, part := range strings.Split(accept, ",") {
		if i >= 16 {
			break
		}
		kind, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		q := 1.0
		if v, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(v, 64); err != nil || q != q {
				continue
			}
		}
		f := Text
		switch version := params["version"]; {
		case kind == "application/vnd.google.protobuf" && params["proto"] == "io.prometheus.client.MetricFamily" && params["encoding"] == "delimited":
			f = Protobuf
		case kind == "application/openmetrics-text" && (version == "" || version == "0.0.1" || version == "1.0.0"):
			f = OpenMetrics
		case kind != "text/plain":
			continue
		}
		like[f] = max(like[f], q)
	}
	best := Text
	for f, q := range like {
		if q > 0 && q >= like[best] {
			best = Format(f)
		}
	}
	return best
}

// Write writes all metrics in a format. Any goroutine.
func (r *Registry) Write(w io.Writer, f Format) (int64, error) {
	switch f {
	case OpenMetrics:
		return r.WriteOpenMetrics(w)
	case Protobuf:
		return r.WriteProtobuf(w)
	}
	return r.WriteTo(w)
}
