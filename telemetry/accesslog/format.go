package accesslog

import (
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"
)

const startFormat = "2006-01-02T15:04:05.000Z"

func appendLine(dst []byte, f Format, r *record) []byte {
	if f == Text {
		return appendText(dst, r)
	}
	return appendJSON(dst, r)
}

// appendText writes Istio's default text format:
//
//	[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE%
//	%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS%
//	"%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION%
//	%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%"
//	"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW%
//	%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS%
//	%REQUESTED_SERVER_NAME% %ROUTE_NAME%
//
// on one line. Quotes, backslashes, control characters and, outside quotes,
// spaces are written as \xHH, so that no value can end its field or its line.
func appendText(b []byte, r *record) []byte {
	b = append(b, '[')
	b = time.Unix(0, r.start).UTC().AppendFormat(b, startFormat)
	b = append(b, `] "`...)
	b = text(b, r.values[method], true)
	b = append(b, ' ')
	b = text(b, r.values[path], true)
	b = append(b, ' ')
	b = text(b, r.values[protocol], true)
	b = append(b, `" `...)
	b = strconv.AppendUint(b, uint64(r.code), 10)
	b = append(b, ' ')
	b = append(b, r.flag.String()...)
	b = bare(b, r.values[details])
	b = bare(b, r.values[termination])
	b = quoted(b, r.values[upstreamFailure])
	b = append(b, ' ')
	b = strconv.AppendInt(b, r.received, 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, r.sent, 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, r.duration.Milliseconds(), 10)
	b = append(b, ' ')
	if r.service < 0 {
		b = append(b, '-')
	} else {
		b = strconv.AppendInt(b, r.service.Milliseconds(), 10)
	}
	b = quoted(b, r.values[forwardedFor])
	b = quoted(b, r.values[userAgent])
	b = quoted(b, r.values[requestID])
	b = quoted(b, r.values[authority])
	b = append(b, ` "`...)
	b = addr(b, r.upstreamHost)
	b = append(b, '"')
	b = bare(b, r.values[upstreamCluster])
	b = append(b, ' ')
	b = addr(b, r.upstreamLocal)
	b = append(b, ' ')
	b = addr(b, r.downstreamLocal)
	b = append(b, ' ')
	b = addr(b, r.downstreamPeer)
	b = bare(b, r.values[serverName])
	b = bare(b, r.values[routeName])
	return append(b, '\n')
}

func quoted(b, v []byte) []byte {
	b = append(b, ` "`...)
	b = text(b, v, true)
	return append(b, '"')
}

func bare(b, v []byte) []byte {
	return text(append(b, ' '), v, false)
}

func text(b, v []byte, quoted bool) []byte {
	if len(v) == 0 {
		return append(b, '-')
	}
	for _, c := range v {
		if c < 0x20 || c == 0x7f || c == '"' || c == '\\' || c == ' ' && !quoted {
			b = append(b, '\\', 'x', hex[c>>4], hex[c&15])
		} else {
			b = append(b, c)
		}
	}
	return b
}

func addr(b []byte, a netip.AddrPort) []byte {
	if !a.IsValid() {
		return append(b, '-')
	}
	return a.AppendTo(b)
}

const hex = "0123456789ABCDEF"

// appendJSON writes the keys of Istio's default JSON access log, in Envoy's
// order (by name): numbers are numbers, what is absent is null.
func appendJSON(b []byte, r *record) []byte {
	b = stringField(b, `{"authority":`, r.values[authority])
	b = append(b, `,"bytes_received":`...)
	b = strconv.AppendInt(b, r.received, 10)
	b = append(b, `,"bytes_sent":`...)
	b = strconv.AppendInt(b, r.sent, 10)
	b = stringField(b, `,"connection_termination_details":`, r.values[termination])
	b = addrField(b, `,"downstream_local_address":`, r.downstreamLocal)
	b = addrField(b, `,"downstream_remote_address":`, r.downstreamPeer)
	b = append(b, `,"duration":`...)
	b = strconv.AppendInt(b, r.duration.Milliseconds(), 10)
	b = stringField(b, `,"method":`, r.values[method])
	b = stringField(b, `,"path":`, r.values[path])
	b = stringField(b, `,"protocol":`, r.values[protocol])
	b = stringField(b, `,"request_id":`, r.values[requestID])
	b = stringField(b, `,"requested_server_name":`, r.values[serverName])
	b = append(b, `,"response_code":`...)
	b = strconv.AppendUint(b, uint64(r.code), 10)
	b = stringField(b, `,"response_code_details":`, r.values[details])
	b = append(b, `,"response_flags":"`...)
	b = append(b, r.flag.String()...)
	b = append(b, '"')
	b = stringField(b, `,"route_name":`, r.values[routeName])
	b = append(b, `,"start_time":"`...)
	b = time.Unix(0, r.start).UTC().AppendFormat(b, startFormat)
	b = append(b, '"')
	if len(r.values[traceID]) > 0 { // not in Istio's default; Envoy's TRACE_ID
		b = stringField(b, `,"trace_id":`, r.values[traceID])
	}
	b = stringField(b, `,"upstream_cluster":`, r.values[upstreamCluster])
	b = addrField(b, `,"upstream_host":`, r.upstreamHost)
	b = addrField(b, `,"upstream_local_address":`, r.upstreamLocal)
	if r.attempts > 1 { // not in Istio's default; Envoy's UPSTREAM_REQUEST_ATTEMPT_COUNT
		b = append(b, `,"upstream_request_attempt_count":`...)
		b = strconv.AppendUint(b, uint64(r.attempts), 10)
	}
	if r.service < 0 {
		b = append(b, `,"upstream_service_time":null`...)
	} else { // a header's value, and so a string, in Envoy
		b = append(b, `,"upstream_service_time":"`...)
		b = strconv.AppendInt(b, r.service.Milliseconds(), 10)
		b = append(b, '"')
	}
	b = stringField(b, `,"upstream_transport_failure_reason":`, r.values[upstreamFailure])
	b = stringField(b, `,"user_agent":`, r.values[userAgent])
	b = stringField(b, `,"x_forwarded_for":`, r.values[forwardedFor])
	return append(b, "}\n"...)
}

func addrField(b []byte, key string, a netip.AddrPort) []byte {
	b = append(b, key...)
	if !a.IsValid() {
		return append(b, "null"...)
	}
	b = append(b, '"')
	b = a.AppendTo(b)
	return append(b, '"')
}

// stringField writes a JSON string (RFC 8259 §7); bytes that are no UTF-8
// become U+FFFD.
func stringField(b []byte, key string, v []byte) []byte {
	b = append(b, key...)
	if len(v) == 0 {
		return append(b, "null"...)
	}
	b = append(b, '"')
	for i := 0; i < len(v); {
		c := v[i]
		if c < utf8.RuneSelf {
			i++
			switch {
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c < 0x20 || c == 0x7f:
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			default:
				b = append(b, c)
			}
			continue
		}
		r, n := utf8.DecodeRune(v[i:])
		b = utf8.AppendRune(b, r)
		i += n
	}
	return append(b, '"')
}
