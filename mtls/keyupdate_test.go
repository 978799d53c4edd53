package mtls

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
)

// handKeys protect records by hand (RFC 8446 §5.2, §7.3): crypto/tls cannot be made
// to start a KeyUpdate, and real peers do.
type handKeys struct {
	t      *testing.T
	secret []byte
	seq    uint64
}

func expandLabel(t *testing.T, secret []byte, label string, n int) []byte {
	t.Helper()
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(info, byte(6+len(label)))
	info = append(append(info, "tls13 "...), label...)
	out, err := hkdf.Expand(sha256.New, secret, string(append(info, 0)), n)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (k *handKeys) aead() (cipher.AEAD, []byte) {
	block, err := aes.NewCipher(expandLabel(k.t, k.secret, "key", 16))
	if err != nil {
		k.t.Fatal(err)
	}
	a, err := cipher.NewGCM(block)
	if err != nil {
		k.t.Fatal(err)
	}
	nonce := expandLabel(k.t, k.secret, "iv", 12)
	var seq [12]byte
	binary.BigEndian.PutUint64(seq[4:], k.seq)
	for i := range nonce {
		nonce[i] ^= seq[i]
	}
	k.seq++
	return a, nonce
}

func (k *handKeys) seal(kind byte, data []byte) []byte {
	a, nonce := k.aead()
	head := binary.BigEndian.AppendUint16([]byte{23, 3, 3}, uint16(len(data)+1+a.Overhead()))
	return a.Seal(head, nonce, append(bytes.Clone(data), kind), head)
}

func (k *handKeys) open(record []byte) (kind byte, data []byte) {
	a, nonce := k.aead()
	plain, err := a.Open(nil, nonce, record[5:], record[:5])
	if err != nil {
		k.t.Fatal(err)
	}
	return plain[len(plain)-1], plain[:len(plain)-1]
}

func (k *handKeys) next() {
	k.secret, k.seq = expandLabel(k.t, k.secret, "traffic upd", 32), 0
}

func TestKeyUpdateFromPeer(t *testing.T) {
	ca := newTestCA(t)
	fa, fb := ca.factory(t, alice), ca.factory(t, bob)
	var log bytes.Buffer
	g, err := fa.current()
	if err != nil {
		t.Fatal(err)
	}
	c := client(fa, bob)
	g.client(c.client).KeyLogWriter = &log
	w := join(c, fb.Server())
	w.mustShake(t)
	defer w.release()
	if w.a.tls.ConnectionState().CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		t.Skip("this machine prefers another cipher suite")
	}
	secret := func(name string) *handKeys {
		for line := range strings.Lines(log.String()) {
			if f := strings.Fields(line); f[0] == name {
				raw, err := hex.DecodeString(f[2])
				if err != nil {
					t.Fatal(err)
				}
				return &handKeys{t: t, secret: raw}
			}
		}
		t.Fatal("no " + name)
		return nil
	}
	up, down := secret("CLIENT_TRAFFIC_SECRET_0"), secret("SERVER_TRAFFIC_SECRET_0")
	down.seq = 1 // the ticket was 0

	const handshake, data = 22, 23
	var p [100]byte
	// A record without data: nothing to read, and an answer to send.
	w.b.Feed(up.seal(handshake, []byte{24, 0, 0, 1, 1})) // update_requested
	if n, err := w.b.Read(p[:]); n != 0 || err != ErrEmpty {
		t.Fatalf("%d, %v", n, err)
	}
	answer := bytes.Clone(w.b.Outgoing())
	if len(answer) == 0 {
		t.Fatal("KeyUpdate was not answered")
	}
	w.b.Sent(len(answer))
	if kind, body := down.open(answer); kind != handshake || !bytes.Equal(body, []byte{24, 0, 0, 1, 0}) {
		t.Fatalf("answer %d %x", kind, body)
	}
	up.next()
	down.next()
	// Data in front of and behind another one, in one feed.
	all := up.seal(data, []byte("before"))
	all = append(all, up.seal(handshake, []byte{24, 0, 0, 1, 0})...)
	up.next()
	all = append(all, up.seal(data, []byte("after"))...)
	w.b.Feed(all)
	var got []byte
	for {
		n, err := w.b.Read(p[:])
		if got = append(got, p[:n]...); err == ErrEmpty {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if string(got) != "beforeafter" {
		t.Errorf("%q", got)
	}
	w.b.Write([]byte("reply"))
	if kind, body := down.open(bytes.Clone(w.b.Outgoing())); kind != data || string(body) != "reply" {
		t.Errorf("%d %q", kind, body)
	}
	w.b.Sent(len(w.b.Outgoing()))

	// Who asks for answers and reads none is cut off, and memory stays bounded.
	for range 10000 {
		r := up.seal(handshake, []byte{24, 0, 0, 1, 1})
		up.next()
		r = append(r, up.seal(data, []byte("x"))...)
		if err := w.b.Feed(r); err != nil {
			t.Fatal(err)
		}
		if _, err := w.b.Read(p[:]); err != nil {
			break
		}
		if _, err := w.b.Read(p[:]); err != ErrEmpty {
			break
		}
		if len(w.b.Outgoing()) > maxBuffer {
			t.Fatalf("%d bytes of answers", len(w.b.Outgoing()))
		}
	}
	if len(w.b.Outgoing()) > maxBuffer {
		t.Errorf("%d bytes of answers", len(w.b.Outgoing()))
	}
}
