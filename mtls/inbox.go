package mtls

const (
	headerLen = 5
	// maxFragment is the longest payload of a protected record (RFC 8446 §5.2).
	maxFragment = 1<<14 + 256
	// maxHello bounds what is kept of a ClientHello that is not complete.
	maxHello = 16 << 10

	roomHandshake = 32 << 10 // unread ciphertext of a peer that nobody has verified
	roomOpen      = maxBuffer
)

// inbox collects ciphertext and gives out whole records only. What it holds is
// held[off:] followed by lent, which is the caller's memory. lent starts at a
// record's boundary unless held is empty, then it is a boundary as well.
// It is not safe for concurrent use.
type inbox struct {
	pool  *pool
	held  *buffer // nil when there is nothing to keep
	off   int
	lent  []byte
	ready int // bytes of held[off:]+lent that make whole records
	rem   int // bytes that are still to take of a record that was begun
	most  int // bytes of the largest record that was taken
}

// unread is how many bytes were fed and not taken yet.
func (in *inbox) unread() int {
	n := len(in.lent)
	if in.held != nil {
		n += len(in.held.b) - in.off
	}
	return n
}

// whole returns how many of the first bytes of b make complete records. A length
// that no record may have counts as complete, so that crypto/tls sees it at once,
// answers with record_overflow and nobody waits for 64 KiB of it.
func whole(b []byte) int {
	n := 0
	for len(b)-n >= headerLen {
		l := int(b[n+3])<<8 | int(b[n+4])
		if l > maxFragment {
			return len(b)
		}
		if len(b)-n < headerLen+l {
			break
		}
		n += headerLen + l
	}
	return n
}

// feed takes p in. Of p, only what completes a record that is held already is
// copied; the rest is lent until settle.
func (in *inbox) feed(p []byte) {
	if len(in.lent) > 0 {
		in.settle()
	}
	if in.held != nil {
		p = p[in.complete(p):]
	}
	if len(p) > 0 {
		in.lent = p
		in.ready += whole(p)
	}
}

// complete moves bytes of p to the partial record at the end of held and returns
// how many it took.
func (in *inbox) complete(p []byte) int {
	took := 0
	for {
		part := in.held.b[in.off+in.ready:]
		need := headerLen - len(part)
		if len(part) == 0 {
			return took
		}
		if need <= 0 {
			l := int(part[3])<<8 | int(part[4])
			if l > maxFragment {
				in.ready += len(part)
				return took
			}
			need = headerLen + l - len(part)
		}
		if need == 0 {
			in.ready += len(part)
			return took
		}
		n := min(need, len(p)-took)
		if n == 0 {
			return took
		}
		in.keep(p[took : took+n])
		took += n
	}
}

// settle copies what is lent to memory of our own.
func (in *inbox) settle() {
	if len(in.lent) == 0 {
		return
	}
	in.keep(in.lent)
	in.lent = nil
}

// keep appends data to held. What was taken already makes room first: unread bytes
// alone are bounded by maxBuffer, with the taken ones they might not be.
func (in *inbox) keep(data []byte) {
	if in.off > 0 && len(in.held.b)+len(data) > cap(in.held.b) {
		n := copy(in.held.b, in.held.b[in.off:])
		in.held.b, in.off = in.held.b[:n], 0
	}
	in.held = in.pool.add(in.held, data)
}

// take moves bytes of whole records to p, never of two at once, and returns how
// many; 0 when there are none. So tls.Conn never buffers a record that we do not
// know of, and its buffer stays as small as the largest record.
func (in *inbox) take(p []byte) int {
	if in.ready == 0 {
		return 0
	}
	src := in.lent
	if in.held != nil {
		src = in.held.b[in.off:]
	}
	if in.rem == 0 {
		in.rem = in.ready // of what is no record, everything
		if len(src) >= headerLen {
			in.rem = min(in.rem, headerLen+(int(src[3])<<8|int(src[4])))
		}
		in.most = max(in.most, in.rem)
	}
	n := copy(p, src[:min(in.rem, len(src))])
	in.rem -= n
	in.ready -= n
	switch {
	case in.held == nil:
		if in.lent = in.lent[n:]; len(in.lent) == 0 {
			in.lent = nil
		}
	case n == len(src):
		in.pool.put(in.held)
		in.held, in.off = nil, 0
	default:
		in.off += n
	}
	return n
}

// drop gives everything up.
func (in *inbox) drop() {
	in.pool.put(in.held)
	*in = inbox{pool: in.pool, most: in.most}
}

// helloState is what the first bytes of a connection hold of a ClientHello.
type helloState uint8

const (
	helloPartial helloState = iota
	helloWhole              // or something that can never become one and is for crypto/tls to refuse
	helloTooLarge
	helloNever
)

// startsHello says whether b, the first bytes of a connection, may begin a TLS
// handshake record. "GET / HTTP" would otherwise be 8 KiB of record to wait for.
func startsHello(b *buffer) bool {
	return b == nil || len(b.b) == 0 || b.b[0] == 22 && (len(b.b) < 2 || b.b[1] == 3)
}

// hello looks at b, the whole records at the start of a connection.
func hello(b []byte) helloState {
	const handshake, clientHello = 22, 1
	var head [4]byte
	got := 0 // bytes of the handshake message so far
	for len(b) >= headerLen {
		l := int(b[3])<<8 | int(b[4])
		if b[0] != handshake || b[1] != 3 || l == 0 || l > maxFragment || len(b) < headerLen+l {
			return helloWhole
		}
		if got < len(head) {
			copy(head[got:], b[headerLen:headerLen+l])
		}
		got += l
		if head[0] != clientHello {
			return helloWhole
		}
		if got >= len(head) {
			switch size := int(head[1])<<16 | int(head[2])<<8 | int(head[3]); {
			case size > maxHello:
				return helloTooLarge
			case got >= len(head)+size:
				return helloWhole
			}
		}
		b = b[headerLen+l:]
	}
	return helloPartial
}
