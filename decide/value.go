package decide

import (
	"bytes"
	"fmt"
	"regexp"

	seinev1 "github.com/seinemesh/seine/api/seine/v1"
)

type valueKind uint8

const (
	anyValue valueKind = iota // present
	exactValue
	prefixValue
	elementsValue // a prefix of whole path elements
	regexValue
)

// value is a compiled StringMatch.
type value struct {
	kind valueKind
	fold bool   // ASCII case does not matter
	text string // exact, prefix (in lower case if fold)
	re   *regexp.Regexp
	lits literals
}

// compileValue compiles m; an absent match, and the regular expression "*",
// which is none, mean that any value will do (Istio's route translation).
func compileValue(m *seinev1.StringMatch) (value, error) {
	switch v := m.GetMatch().(type) {
	case *seinev1.StringMatch_Exact:
		return newText(exactValue, v.Exact, m.IgnoreCase), nil
	case *seinev1.StringMatch_Prefix:
		return newText(prefixValue, v.Prefix, m.IgnoreCase), nil
	case *seinev1.StringMatch_Regex:
		if v.Regex == "*" {
			return value{}, nil
		}
		re, err := CompileRegex(v.Regex)
		if err != nil {
			return value{}, err
		}
		return value{kind: regexValue, re: re, lits: findLiterals(v.Regex), text: v.Regex}, nil
	}
	return value{}, nil
}

// CompileRegex compiles a RE2 expression that must match the whole of a value,
// as Envoy's regex matchers do.
func CompileRegex(expr string) (*regexp.Regexp, error) {
	if _, err := regexp.Compile(expr); err != nil {
		return nil, err // before wrapping: "a)(b" is not an expression
	}
	re, err := regexp.Compile(`\A(?:` + expr + `)\z`)
	if err != nil {
		return nil, fmt.Errorf("regular expression %q: %w", expr, err)
	}
	return re, nil
}

func newText(kind valueKind, text string, fold bool) value {
	if fold {
		text = lower(text)
	}
	return value{kind: kind, text: text, fold: fold}
}

func (v *value) match(b []byte) bool {
	switch v.kind {
	case exactValue:
		if v.fold {
			return len(b) == len(v.text) && foldedPrefix(b, v.text)
		}
		return string(b) == v.text
	case prefixValue:
		if v.fold {
			return foldedPrefix(b, v.text)
		}
		return len(b) >= len(v.text) && string(b[:len(v.text)]) == v.text
	case elementsValue:
		return len(b) >= len(v.text) && string(b[:len(v.text)]) == v.text && (len(b) == len(v.text) || b[len(v.text)] == '/')
	case regexValue:
		return v.lits.in(b) && v.re.Match(b)
	}
	return true
}

// in reports whether b holds the literals where they must be.
func (l *literals) in(b []byte) bool {
	if len(b) < len(l.prefix) || string(b[:len(l.prefix)]) != l.prefix {
		return false
	}
	if len(b) < len(l.suffix) || string(b[len(b)-len(l.suffix):]) != l.suffix {
		return false
	}
	return l.inner == "" || containsString(b, l.inner)
}

// containsString is bytes.Contains for a string, without converting it.
func containsString(b []byte, s string) bool {
	for len(b) >= len(s) {
		i := bytes.IndexByte(b[:len(b)-len(s)+1], s[0])
		if i < 0 {
			return false
		}
		if string(b[i:i+len(s)]) == s {
			return true
		}
		b = b[i+1:]
	}
	return false
}

// foldedPrefix reports whether b begins with lower, which is in lower case,
// without regard to ASCII case.
func foldedPrefix(b []byte, lower string) bool {
	if len(b) < len(lower) {
		return false
	}
	for i := range len(lower) {
		c := b[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// lower is s with ASCII letters in lower case.
func lower(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			b := []byte(s)
			for j := i; j < len(b); j++ {
				if 'A' <= b[j] && b[j] <= 'Z' {
					b[j] |= 0x20
				}
			}
			return string(b)
		}
	}
	return s
}
