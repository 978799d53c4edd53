package http2

import "encoding/binary"

// Frame types (RFC 9113 §6).
const (
	frameData = iota
	frameHeaders
	framePriority
	frameReset
	frameSettings
	framePush
	framePing
	frameGoAway
	frameWindow
	frameContinuation
)

const (
	flagEnd      = 0x1 // of DATA and HEADERS; ACK of SETTINGS and PING
	flagAck      = 0x1
	flagHeaders  = 0x4
	flagPadded   = 0x8
	flagPriority = 0x20
)

// Settings (RFC 9113 §6.5.2, RFC 8441 §3).
const (
	setTable   = 1
	setPush    = 2
	setStreams = 3
	setWindow  = 4
	setFrame   = 5
	setList    = 6
	setConnect = 8
)

const (
	headerLen     = 9
	maxFrame      = 16384 // of frames that we take; we never raise it
	initialWindow = 65535
	maxWindow     = 1<<31 - 1
)

// header is a frame's header.
type header struct {
	length int
	kind   uint8
	flags  uint8
	id     uint32
}

func parseHeader(b []byte) header {
	return header{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		kind:   b[3],
		flags:  b[4],
		id:     binary.BigEndian.Uint32(b[5:]) & maxWindow,
	}
}

func appendHeader(dst []byte, length int, kind, flags uint8, id uint32) []byte {
	return append(dst, byte(length>>16), byte(length>>8), byte(length), kind, flags,
		byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

func putHeader(b []byte, length int, kind, flags uint8, id uint32) {
	_ = appendHeader(b[:0:headerLen], length, kind, flags, id)
}

func appendReset(dst []byte, id uint32, code Code) []byte {
	return binary.BigEndian.AppendUint32(appendHeader(dst, 4, frameReset, 0, id), uint32(code))
}

func appendWindow(dst []byte, id, n uint32) []byte {
	return binary.BigEndian.AppendUint32(appendHeader(dst, 4, frameWindow, 0, id), n)
}

func appendSetting(dst []byte, id uint16, v uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(dst, id), v)
}
