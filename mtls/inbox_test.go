package mtls

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// FuzzInbox cuts a stream into pieces and compares what comes out with the stream:
// in order, whole records only, and nothing kept that could have been given.
func FuzzInbox(f *testing.F) {
	rec := func(n int) []byte { return append([]byte{23, 3, 3, byte(n >> 8), byte(n)}, make([]byte, n)...) }
	f.Add(append(rec(3), rec(0)...), []byte{1, 1, 1, 1, 1, 1, 1, 1})
	f.Add(bytes.Repeat(rec(100), 5), []byte{50, 200, 3, 0, 255})
	f.Add(append(rec(20), 23, 3, 3, 0xff, 0xff, 1, 2), []byte{7, 131, 9})
	f.Add(rec(300), []byte{4, 129, 255})
	f.Fuzz(func(t *testing.T, stream, cuts []byte) {
		if len(stream) > 30<<10 {
			return
		}
		var p pool
		in := inbox{pool: &p}
		var got []byte
		out := make([]byte, 50)
		scratch := make([]byte, 256)
		rest := stream
		for i := 0; len(rest) > 0; i++ {
			cut, how := len(rest), byte(0)
			if i < len(cuts) {
				how = cuts[i]
				cut = min(int(how), cut)
			}
			cut = min(cut, len(scratch))
			n := copy(scratch, rest[:cut])
			rest = rest[n:]
			in.feed(scratch[:n])
			for range int(how) % 5 { // sometimes not all of it
				got = append(got, out[:in.take(out)]...)
			}
			in.settle()
			clear(scratch) // the loop's next read
			if fed := len(stream) - len(rest); in.unread() != fed-len(got) {
				t.Fatalf("unread %d of %d fed, %d taken", in.unread(), fed, len(got))
			}
		}
		for n := in.take(out); n > 0; n = in.take(out) {
			got = append(got, out[:n]...)
		}
		if !bytes.HasPrefix(stream, got) {
			t.Fatal("other bytes came out")
		}
		want := 0 // up to the end, or to what is no record; its header comes out too
		for len(stream)-want >= headerLen {
			l := int(stream[want+3])<<8 | int(stream[want+4])
			if l > maxFragment {
				want += headerLen
				break
			}
			if len(stream)-want < headerLen+l {
				break
			}
			want += headerLen + l
		}
		if len(got) < want {
			t.Fatalf("%d bytes out of %d whole ones", len(got), want)
		}
		if in.unread() == 0 && in.held != nil {
			t.Fatal("an empty inbox holds a buffer")
		}
		hello(stream[:whole(stream)])
		startsHello(&buffer{b: stream})
	})
}

// FuzzParseID compares with the library, and holds what a header and a cache key rely on.
func FuzzParseID(f *testing.F) {
	for _, s := range []string{alice, "spiffe://a", "spiffe:///x", "spiffe://a/b//c", "spiffe://A/b", "spiffe://a/b?c", "spiffe://a/\r\n", "https://a/b", "", "spiffe://a/" + strings.Repeat("x", 3000)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err != nil {
			return
		}
		if id.String() != s || len(s) > maxID || strings.ContainsAny(s, "\x00\r\n\"';,= ") {
			t.Fatalf("%q was accepted as %q", s, id)
		}
		if _, err := spiffeid.FromString(s); err != nil {
			t.Fatal(err)
		}
		ns, sa := SplitPath(id.Path())
		if ns != "" && id.Path() != "/ns/"+ns+"/sa/"+sa {
			t.Fatalf("%q: %q, %q", s, ns, sa)
		}
	})
}

func TestHello(t *testing.T) {
	for _, tc := range []struct {
		name string
		in   []byte
		want helloState
	}{
		{"nothing", nil, helloPartial},
		{"whole", []byte{22, 3, 1, 0, 5, 1, 0, 0, 1, 9}, helloWhole},
		{"in two records", []byte{22, 3, 1, 0, 2, 1, 0, 22, 3, 1, 0, 3, 0, 1, 9}, helloWhole},
		{"first of two records", []byte{22, 3, 1, 0, 2, 1, 0}, helloPartial},
		{"body to come", []byte{22, 3, 1, 0, 4, 1, 0, 0, 1}, helloPartial},
		{"an alert", []byte{21, 3, 1, 0, 2, 1, 0}, helloWhole},
		{"another message", []byte{22, 3, 1, 0, 1, 2}, helloWhole},
		{"empty record", []byte{22, 3, 1, 0, 0}, helloWhole},
		{"too large", []byte{22, 3, 1, 0, 4, 1, 0, 0x40, 1}, helloTooLarge},
	} {
		if got := hello(tc.in); got != tc.want {
			t.Errorf("%s: %d", tc.name, got)
		}
	}
}

// TestInboxAtItsBounds feeds as much as Room allows while little is taken, so that
// taken and unread bytes together would not fit a buffer.
func TestInboxAtItsBounds(t *testing.T) {
	for _, size := range []int{100, 5000, maxFragment} {
		var p pool
		in := inbox{pool: &p}
		record := append([]byte{23, 3, 3, byte(size >> 8), byte(size)}, make([]byte, size)...)
		stream := bytes.Repeat(record, 2<<20/len(record))
		out, got := make([]byte, 8192), 0
		for i := 0; len(stream) > 0; i++ {
			n := min(roomOpen-in.unread(), len(stream), 1+i*7919%(64<<10))
			in.feed(stream[:n])
			stream = stream[n:]
			for range 1 + i%11 {
				got += in.take(out)
			}
			in.settle()
			if in.held != nil && cap(in.held.b) > maxBuffer {
				t.Fatalf("a buffer of %d", cap(in.held.b))
			}
		}
		for n := in.take(out); n > 0; n = in.take(out) {
			got += n
		}
		if got%len(record) != 0 || got == 0 || in.unread() != 0 || in.held != nil {
			t.Errorf("records of %d: %d taken, %d left", size, got, in.unread())
		}
	}
}
