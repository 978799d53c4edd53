package http1

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/seinemesh/seine/message"
)

// refused is a case of the files in testdata.
type refused struct {
	name   string
	status int
	clause string
	bytes  []byte
}

// corpus reads a file of cases; requests.txt describes the format.
func corpus(t testing.TB, file string) (cases []refused) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	title := regexp.MustCompile(`^-- (.*): (\d{3}) (RFC \d+ §[\d.]+)$`)
	var body strings.Builder
	end := func() {
		if n := len(cases); n > 0 {
			s, err := unescape(body.String())
			if err != nil {
				t.Fatalf("%s: %s: %v", file, cases[n-1].name, err)
			}
			cases[n-1].bytes = []byte(s)
		}
		body.Reset()
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if m := title.FindStringSubmatch(line); m != nil {
			end()
			status, _ := strconv.Atoi(m[2])
			cases = append(cases, refused{name: m[1], status: status, clause: m[3]})
			if seen[m[1]] {
				t.Errorf("%s has two cases %q", file, m[1])
			}
			seen[m[1]] = true
		} else if strings.HasPrefix(line, "-- ") {
			t.Fatalf("%s: not a title: %s", file, line)
		} else if line != "" && !strings.HasPrefix(line, "#") {
			body.WriteString(line)
		}
	}
	end()
	return cases
}

var repeat = regexp.MustCompile(`\{(\d+)\*([^{}]*)\}`)

// unescape undoes {n*text} from the inside out, then Go's escapes.
func unescape(s string) (string, error) {
	for {
		m := repeat.FindStringSubmatchIndex(s)
		if m == nil {
			break
		}
		n, err := strconv.Atoi(s[m[2]:m[3]])
		if err != nil {
			return "", err
		}
		s = s[:m[0]] + strings.Repeat(s[m[4]:m[5]], n) + s[m[1]:]
	}
	return strconv.Unquote(`"` + strings.ReplaceAll(s, `"`, `\"`) + `"`)
}

// check says what is wrong with the refusal of a case.
func (c *refused) check(n int, err *Error) error {
	switch {
	case err == nil:
		return fmt.Errorf("accepted, %d bytes; want %d %s", n, c.status, c.clause)
	case err.Status != c.status || err.Clause != c.clause:
		return fmt.Errorf("refused with %d %s (%s); want %d %s", err.Status, err.Clause, err.Reason, c.status, c.clause)
	}
	return nil
}

func TestRefusedRequests(t *testing.T) {
	for _, c := range corpus(t, "requests.txt") {
		t.Run(c.name, func(t *testing.T) {
			var req message.Request
			n, _, err := ParseRequest(c.bytes, &req, nil)
			if bad := c.check(n, err); bad != nil || n != 0 {
				t.Fatalf("%v\n%.300q", bad, c.bytes)
			}
			// However the bytes arrive, they are never accepted.
			for k := range min(len(c.bytes), 300) {
				if n, _, _ := ParseRequest(c.bytes[:k], &req, nil); n != 0 {
					t.Fatalf("accepted after %d bytes: %q", k, c.bytes[:k])
				}
			}
		})
	}
}

func TestRefusedResponses(t *testing.T) {
	for _, c := range corpus(t, "responses.txt") {
		t.Run(c.name, func(t *testing.T) {
			var res message.Response
			b, asked := strings.CutPrefix(string(c.bytes), "{HEAD}")
			how := AskedHead
			if !asked {
				if b, asked = strings.CutPrefix(b, "{UPGRADE}"); asked {
					how = AskedUpgrade
				} else {
					how = 0
				}
			}
			n, _, err := ParseResponse([]byte(b), &res, how, nil)
			if bad := c.check(n, err); bad != nil || n != 0 {
				t.Fatalf("%v\n%.300q", bad, b)
			}
			for k := range min(len(b), 300) {
				if n, _, _ := ParseResponse([]byte(b[:k]), &res, how, nil); n != 0 {
					t.Fatalf("accepted after %d bytes: %q", k, b[:k])
				}
			}
		})
	}
}

func TestRefusedBodies(t *testing.T) {
	for _, c := range corpus(t, "bodies.txt") {
		t.Run(c.name, func(t *testing.T) {
			for _, step := range []int{1 << 20, 7, 1} {
				var b Body
				b.Reset(Framing{Kind: Chunked})
				n, done, err := feed(&b, c.bytes, step)
				if bad := c.check(n, err); bad != nil || done {
					t.Fatalf("in steps of %d: %v\n%.300q", step, bad, c.bytes)
				}
				if n2, _, err2 := b.Next(c.bytes); n2 != 0 || err2 != err || b.End() != err {
					t.Fatalf("an error does not stay: %d, %v", n2, err2)
				}
			}
		})
	}
}

// feed gives b the bytes of in, step at a time.
func feed(b *Body, in []byte, step int) (n int, done bool, err *Error) {
	for n < len(in) && !done && err == nil {
		var k int
		part := in[n:min(n+step, len(in))]
		k, done, err = b.Next(part)
		n += k
		if k < len(part) && !done && err == nil {
			panic("Next left bytes without a reason")
		}
	}
	return n, done, err
}
