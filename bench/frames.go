package main

import (
	"encoding/binary"
	"errors"
)

// Of RFC 9113 §6, what the backend needs.
const (
	frameData, frameHeaders, frameSettings, framePing      = 0, 1, 4, 6
	frameGoAway, frameWindow, frameContinuation            = 7, 8, 9
	flagEndStream, flagAck, flagEndHeaders            byte = 1, 1, 4

	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
)

var errFrames = errors.New("backend: not HTTP/2, or a window too small for an answer")

// frames is the backend's side of an HTTP/2 connection: it answers every
// request alike and decodes no field. A request that ends with its head gets
// 1 KiB; one with content is a gRPC call, and gets a message of 1 KiB and
// status 0. Streams' windows are taken to hold an answer.
type frames struct {
	in       []byte // an incomplete frame
	greeted  bool
	window   int    // of the connection, for sending
	received int    // content since the last WINDOW_UPDATE
	ends     bool   // the head under way ends its stream
	queue    []owed // answers that wait for the window
}

type owed struct {
	stream uint32
	grpc   bool
}

// Field blocks without Huffman coding and without the dynamic table.
var (
	head2    = append([]byte{0x88, 0x0f, 0x10, 10}, "text/plain\x0f\x0d\x041024"...) // :status 200, content-type, content-length
	headGRPC = append([]byte{0x88, 0x0f, 0x10, 16}, "application/grpc"...)           // :status 200, content-type
	tailGRPC = append([]byte{0x00, 11}, "grpc-status\x010"...)                       // grpc-status: 0
	bodyGRPC = append([]byte{0, 0, 0, 4, 0}, content()...)                           // a message and its length
	body2    = content()
)

func newFrames() *frames { return &frames{window: 65535} }

// take reads what the client sent and appends what it is told to out.
func (f *frames) take(out, b []byte) ([]byte, error) {
	if len(f.in) > 0 {
		f.in = append(f.in, b...)
		b = f.in
	}
	if !f.greeted {
		if len(b) < len(preface) {
			f.in = append(f.in[:0], b...)
			return out, nil
		}
		if string(b[:len(preface)]) != preface {
			return out, errFrames
		}
		b, f.greeted = b[len(preface):], true
		// At most 1,000 streams at once (SETTINGS_MAX_CONCURRENT_STREAMS).
		out = appendFrame(out, frameSettings, 0, 0, []byte{0, 3, 0, 0, 3, 232})
	}
	for len(b) >= 9 {
		n := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
		if n > 1<<14 {
			return out, errFrames
		}
		if len(b) < 9+n {
			break
		}
		var err error
		if out, err = f.frame(out, b[3], b[4], binary.BigEndian.Uint32(b[5:])&^(1<<31), b[9:9+n]); err != nil {
			return out, err
		}
		b = b[9+n:]
	}
	f.in = append(f.in[:0], b...)
	return out, nil
}

func (f *frames) frame(out []byte, kind, flags byte, stream uint32, b []byte) ([]byte, error) {
	switch kind {
	case frameData:
		if f.received += len(b); f.received > 16<<10 {
			out = appendFrame(out, frameWindow, 0, 0, binary.BigEndian.AppendUint32(nil, uint32(f.received)))
			f.received = 0
		}
		if flags&flagEndStream != 0 {
			f.queue = append(f.queue, owed{stream, true})
		}
	case frameHeaders, frameContinuation:
		if kind == frameHeaders {
			f.ends = flags&flagEndStream != 0
		}
		if flags&flagEndHeaders != 0 && f.ends {
			f.queue = append(f.queue, owed{stream, false})
		}
	case frameSettings:
		if flags&flagAck != 0 {
			break
		}
		for ; len(b) >= 6; b = b[6:] {
			const initialWindow = 4
			if binary.BigEndian.Uint16(b) == initialWindow && binary.BigEndian.Uint32(b[2:]) < 2048 {
				return out, errFrames
			}
		}
		out = appendFrame(out, frameSettings, flagAck, 0, nil)
	case framePing:
		if flags&flagAck == 0 {
			out = appendFrame(out, framePing, flagAck, 0, b)
		}
	case frameWindow:
		if stream == 0 && len(b) == 4 {
			f.window += int(binary.BigEndian.Uint32(b))
		}
	case frameGoAway:
		return out, nil // the client closes
	}
	for len(f.queue) > 0 && f.window >= len(bodyGRPC) {
		a := f.queue[0]
		f.queue = append(f.queue[:0], f.queue[1:]...)
		if a.grpc {
			f.window -= len(bodyGRPC)
			out = appendFrame(out, frameHeaders, flagEndHeaders, a.stream, headGRPC)
			out = appendFrame(out, frameData, 0, a.stream, bodyGRPC)
			out = appendFrame(out, frameHeaders, flagEndHeaders|flagEndStream, a.stream, tailGRPC)
			continue
		}
		f.window -= len(body2)
		out = appendFrame(out, frameHeaders, flagEndHeaders, a.stream, head2)
		out = appendFrame(out, frameData, flagEndStream, a.stream, body2)
	}
	return out, nil
}

func appendFrame(out []byte, kind, flags byte, stream uint32, b []byte) []byte {
	out = append(out, byte(len(b)>>16), byte(len(b)>>8), byte(len(b)), kind, flags)
	return append(binary.BigEndian.AppendUint32(out, stream), b...)
}
