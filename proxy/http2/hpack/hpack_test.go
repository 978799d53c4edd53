package hpack

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/seinemesh/seine/message"
	oracle "golang.org/x/net/http2/hpack"
)

var wide = Limits{List: 1 << 20, Fields: 10000}

func show(fields []message.Field) string {
	var b strings.Builder
	for _, f := range fields {
		fmt.Fprintf(&b, "%s: %s\n", f.Name, f.Value)
	}
	return b.String()
}

func field(name, value string) message.Field {
	return message.Field{ID: message.Intern([]byte(name)), Name: []byte(name), Value: []byte(value)}
}

// TestExamples are RFC 7541 appendix C.3 to C.6: requests and responses, without and with
// Huffman code, on one connection each.
func TestExamples(t *testing.T) {
	type step struct{ wire, list string }
	first := ":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\n"
	second := first + "cache-control: no-cache\n"
	third := ":method: GET\n:scheme: https\n:path: /index.html\n:authority: www.example.com\ncustom-key: custom-value\n"
	for name, steps := range map[string][]step{
		"C.3": {
			{"828684410f7777772e6578616d706c652e636f6d", first},
			{"828684be58086e6f2d6361636865", second},
			{"828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565", third},
		},
		"C.4": {
			{"828684418cf1e3c2e5f23a6ba0ab90f4ff", first},
			{"828684be5886a8eb10649cbf", second},
			{"828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf", third},
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := NewDecoder()
			var b Block
			for _, s := range steps {
				wire, _ := hex.DecodeString(s.wire)
				if err := d.Decode(wire, &b, wide); err != nil || show(b.Fields) != s.list {
					t.Fatalf("%v\n%s\nwant\n%s", err, show(b.Fields), s.list)
				}
			}
			if d.t.size != 164 {
				t.Errorf("the table has %d bytes", d.t.size)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name, wire string
		want       *Error
	}{
		{"index 0", "80", ErrIndex},
		{"index beyond the tables", "be", ErrIndex},
		{"name index beyond the tables", "7e0161", ErrIndex},
		{"integer without end", "ff", ErrCut},
		{"integer of many bytes", "ff808080808000", ErrInteger},
		{"integer beyond the limit", "ffffffffff7f", ErrInteger},
		{"string beyond the block", "400a61", ErrCut},
		{"string length beyond everything", "407fffffffff7f", ErrInteger},
		{"no value", "400161", ErrCut},
		{"size update late", "823f00", ErrUpdate},
		{"size update too large", "3fe21f", ErrUpdateSize},
		{"Huffman: padding of zeros", "40811800", ErrHuffman},
		{"Huffman: padding of a byte", "4082ffff00", ErrHuffman},
		{"Huffman: end of string", "4084ffffffff00", ErrHuffman},
		{"Huffman: cut code", "4082fffe00", ErrHuffman},
	} {
		t.Run(c.name, func(t *testing.T) {
			wire, err := hex.DecodeString(c.wire)
			if err != nil {
				t.Fatal(err)
			}
			d := NewDecoder()
			var b Block
			if err := d.Decode(wire, &b, wide); err != c.want {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}

// TestListLimit: a list beyond the limit is not kept, and the table goes on.
func TestListLimit(t *testing.T) {
	e, d := NewEncoder(), NewDecoder()
	var b Block
	big, small := field("x-big", strings.Repeat("v", 900)), field("x-small", "v")
	wire := e.Append(e.Append(nil, &big), &small)
	for range 5000 { // the bomb: one byte for 937
		wire = append(wire, 0x80|62|1)
	}
	if err := d.Decode(wire, &b, Limits{List: 4096, Fields: 100}); err != ErrList || len(b.Fields) != 0 {
		t.Fatalf("%v, %d fields", err, len(b.Fields))
	}
	if cap(b.Bytes) > 16<<10 {
		t.Errorf("%d bytes of scratch", cap(b.Bytes))
	}
	if err := d.Decode(e.Append(nil, &small), &b, wide); err != nil || show(b.Fields) != "x-small: v\n" {
		t.Errorf("%v %s", err, show(b.Fields))
	}
	if err := d.Decode([]byte{0x82, 0x82, 0x82}, &b, Limits{List: 4096, Fields: 2}); err != ErrList {
		t.Errorf("%v for too many fields", err)
	}
}

func TestSecretsAreNeverIndexed(t *testing.T) {
	e, d := NewEncoder(), NewDecoder()
	var b Block
	fields := []message.Field{field("authorization", "Bearer x"), field("Cookie", "a=b"), field("x-own", "s")}
	fields[2].Never = true
	for range 2 {
		var wire []byte
		for i := range fields {
			wire = e.Append(wire, &fields[i])
		}
		if err := d.Decode(wire, &b, wide); err != nil {
			t.Fatal(err)
		}
		for _, f := range b.Fields {
			if !f.Never {
				t.Errorf("%s may be indexed", f.Name)
			}
		}
	}
	if e.t.n != 0 || d.t.n != 0 {
		t.Error("a secret is in the table")
	}
}

// TestTableSize: what the peer sets is announced, the least one first.
func TestTableSize(t *testing.T) {
	e := NewEncoder()
	f := field("x-a", "1")
	e.Append(nil, &f)
	e.SetLimit(0)
	e.SetLimit(100)
	if got := e.Begin(nil); !bytes.Equal(got, []byte{0x20, 0x3f, 100 - 31}) {
		t.Errorf("%x", got)
	}
	if got := e.Begin(nil); len(got) != 0 || e.t.n != 0 {
		t.Errorf("%x, %d entries", got, e.t.n)
	}
	e.SetLimit(1 << 30)
	if got := e.Begin(nil); e.t.max != TableSize || len(got) == 0 {
		t.Errorf("%x, %d", got, e.t.max)
	}
}

func TestStaticTable(t *testing.T) {
	d := oracle.NewDecoder(4096, nil)
	for i := 1; i <= staticLen; i++ {
		f, err := d.DecodeFull([]byte{0x80 | byte(i)})
		if err != nil || f[0].Name != staticText[i-1][0] || f[0].Value != staticText[i-1][1] {
			t.Errorf("%d: %v %v", i, f, err)
		}
		name := []byte(staticText[i-1][0])
		if j := staticName(name, hash(0, name)); staticText[j-1][0] != staticText[i-1][0] || j > uint32(i) {
			t.Errorf("%s found at %d", name, j)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	e, d := NewEncoder(), NewDecoder()
	var b Block
	var wire []byte
	fields := typical()
	id := []byte("0000")
	if n := testing.AllocsPerRun(2000, func() {
		id[0]++
		id[1] += id[0] & 1
		fields[len(fields)-1].Value = id // turns the tables over
		wire = wire[:0]
		for i := range fields {
			wire = e.Append(wire, &fields[i])
		}
		if err := d.Decode(wire, &b, wide); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func typical() []message.Field {
	return []message.Field{
		field(":method", "POST"), field(":scheme", "https"), field(":path", "/billing.Payments/Charge?id=17"),
		field(":authority", "billing.default.svc.cluster.local:8080"), field("content-type", "application/grpc"),
		field("user-agent", "grpc-go/1.85.0"), field("te", "trailers"), field("grpc-timeout", "999m"),
		field("x-request-id", "9e2f3a5e-60c4-4d2b-8f6b-3f0e6a1c2d3b"),
		field("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), field("x-turn", "1"),
	}
}

// FuzzDecode holds the decoder to x/net's: the same fields, or both refuse.
// Ours refuses more: integers of more than five bytes, and updates of the
// table's size behind a field also while the table is empty.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		"828684410f7777772e6578616d706c652e636f6d", "828684418cf1e3c2e5f23a6ba0ab90f4ff", "400a637573746f6d2d6b65790c637573746f6d2d76616c7565be",
		"3fe11f82", "20", "100161016200016301", "4003616263800461626364be", "3f01be",
	} {
		b, _ := hex.DecodeString(s)
		f.Add(b, b)
	}
	f.Fuzz(func(t *testing.T, one, two []byte) {
		ours, theirs := NewDecoder(), oracle.NewDecoder(TableSize, nil)
		var b Block
		for _, in := range [][]byte{one, two} {
			err := ours.Decode(in, &b, wide)
			want, bad := theirs.DecodeFull(in)
			if err == ErrInteger || err == ErrList || err == ErrUpdate {
				return
			}
			if (err == nil) != (bad == nil) {
				t.Fatalf("ours %v, x/net %v\n%x", err, bad, in)
			}
			if err != nil {
				return
			}
			var w strings.Builder
			for _, p := range want {
				fmt.Fprintf(&w, "%s: %s\n", p.Name, p.Value)
			}
			if got := show(b.Fields); got != w.String() {
				t.Fatalf("%q\nx/net %q\n%x", got, w.String(), in)
			}
			for i := range b.Fields {
				if b.Fields[i].Never != want[i].Sensitive || b.Fields[i].ID != message.Intern(b.Fields[i].Name) {
					t.Fatalf("%+v, x/net %+v", b.Fields[i], want[i])
				}
			}
		}
	})
}

// FuzzEncode: x/net and our own decoder read what we send, over blocks with
// changes of the table's size between them.
func FuzzEncode(f *testing.F) {
	f.Add([]byte("GET\n/path\nx-a\nsome value\nx-a\nsome value\nAuthorization\nb"), uint16(100), true)
	f.Add([]byte("content-type\ntext/plain\ncontent-type\ntext/html\nx\ny"), uint16(0), false)
	f.Fuzz(func(t *testing.T, in []byte, size uint16, huff bool) {
		e, d, theirs := NewEncoder(), NewDecoder(), oracle.NewDecoder(TableSize, nil)
		e.Huffman = huff
		parts := bytes.Split(in, []byte("\n"))
		var b Block
		for turn := range 3 {
			wire := e.Begin(nil)
			var want strings.Builder
			for i := 0; i+1 < len(parts); i += 2 {
				f := message.Field{ID: message.Intern(parts[i]), Name: parts[i], Value: parts[i+1]}
				wire = e.Append(wire, &f)
				fmt.Fprintf(&want, "%s: %s\n", lower(parts[i]), parts[i+1])
			}
			got, err := theirs.DecodeFull(wire)
			if err != nil {
				t.Fatalf("x/net: %v\n%x", err, wire)
			}
			var w strings.Builder
			for _, p := range got {
				fmt.Fprintf(&w, "%s: %s\n", p.Name, p.Value)
			}
			if w.String() != want.String() {
				t.Fatalf("x/net %q, want %q", w.String(), want.String())
			}
			if err := d.Decode(wire, &b, wide); err != nil || show(b.Fields) != want.String() {
				t.Fatalf("%v %q, want %q", err, show(b.Fields), want.String())
			}
			if d.t.size != e.t.size || d.t.n != e.t.n {
				t.Fatalf("tables of %d and %d bytes", e.t.size, d.t.size)
			}
			if turn == 0 {
				e.SetLimit(uint32(size))
			} else {
				e.SetLimit(TableSize)
			}
		}
	})
}

func lower(b []byte) []byte {
	b = bytes.Clone(b)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c | 0x20
		}
	}
	return b
}

// FuzzHuffman: what is encoded decodes to the same, as x/net has it; and what decodes, x/net decodes.
func FuzzHuffman(f *testing.F) {
	f.Add([]byte("www.example.com"))
	f.Add([]byte{0, 1, 255, 254, 22, 10})
	f.Add([]byte{0xff, 0xff, 0xff, 0xfc})
	f.Fuzz(func(t *testing.T, in []byte) {
		enc := appendHuffman(nil, in)
		if want := oracle.AppendHuffmanString(nil, string(in)); !bytes.Equal(enc, want) || len(enc) != huffmanLen(in) {
			t.Fatalf("%x, x/net %x", enc, want)
		}
		if back, err := decodeHuffman(nil, enc); err != nil || !bytes.Equal(back, in) {
			t.Fatalf("%x, %v", back, err)
		}
		got, err := decodeHuffman(nil, in)
		want, bad := oracle.HuffmanDecodeToString(in)
		if (err == nil) != (bad == nil) || err == nil && string(got) != want {
			t.Fatalf("%q, %v; x/net %q, %v", got, err, want, errors.Unwrap(bad))
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	e, d := NewEncoder(), NewDecoder()
	fields := typical()
	encode := func(dst []byte) []byte {
		for i := range fields {
			dst = e.Append(dst, &fields[i])
		}
		return dst
	}
	var out Block
	d.Decode(encode(nil), &out, wide)
	wire := encode(nil)
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		if err := d.Decode(wire, &out, wide); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeNet(b *testing.B) {
	e := NewEncoder()
	fields := typical()
	encode := func(dst []byte) []byte {
		for i := range fields {
			dst = e.Append(dst, &fields[i])
		}
		return dst
	}
	d := oracle.NewDecoder(4096, func(oracle.HeaderField) {})
	d.Write(encode(nil))
	wire := encode(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Write(wire); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	e := NewEncoder()
	fields := typical()
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = dst[:0]
		for i := range fields {
			dst = e.Append(dst, &fields[i])
		}
	}
}

func BenchmarkEncodeNet(b *testing.B) {
	var buf bytes.Buffer
	e := oracle.NewEncoder(&buf)
	var fields []oracle.HeaderField
	for _, f := range typical() {
		fields = append(fields, oracle.HeaderField{Name: string(f.Name), Value: string(f.Value)})
	}
	b.ReportAllocs()
	for b.Loop() {
		buf.Reset()
		for _, f := range fields {
			e.WriteField(f)
		}
	}
}
