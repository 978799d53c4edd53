package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Severity orders findings.
type Severity uint8

// The severities. An Error makes `seine analyze` exit 1.
const (
	Info Severity = iota
	Warning
	Error
)

// String is the name in lower case.
func (s Severity) String() string {
	switch s {
	case Error:
		return "error"
	case Warning:
		return "warning"
	}
	return "info"
}

// MarshalText writes the name, for JSON.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the name.
func (s *Severity) UnmarshalText(b []byte) error {
	for _, v := range []Severity{Info, Warning, Error} {
		if v.String() == string(b) {
			*s = v
			return nil
		}
	}
	return fmt.Errorf("severity %q: must be info, warning or error", b)
}

// Finding is one thing that a user should know about a resource. Its JSON form
// is stable.
type Finding struct {
	Code      string   `json:"code"`            // SEINE0101; never reused for something else
	Istio     string   `json:"istio,omitempty"` // IST0101, where istioctl analyze says the same
	Severity  Severity `json:"severity"`
	Kind      string   `json:"kind,omitempty"`
	Namespace string   `json:"namespace,omitempty"`
	Name      string   `json:"name,omitempty"`
	Path      string   `json:"path,omitempty"` // spec.http[0].route[1].weight
	File      string   `json:"file,omitempty"`
	Line      int      `json:"line,omitempty"`
	Message   string   `json:"message"`
	// Refused: the resource (or file) was not taken into the Snapshot.
	Refused bool `json:"refused,omitempty"`
}

// Resource is KIND NAMESPACE/NAME, or what of it is known.
func (f *Finding) Resource() string {
	name := f.Name
	if f.Namespace != "" && name != "" {
		name = f.Namespace + "/" + name
	}
	return strings.TrimSpace(f.Kind + " " + name)
}

// Position is FILE:LINE, or what of it is known.
func (f *Finding) Position() string {
	if f.File == "" || f.Line == 0 {
		return f.File
	}
	return fmt.Sprintf("%s:%d", f.File, f.Line)
}

// String is the finding on one line, as a compiler would say it.
func (f *Finding) String() string {
	var b strings.Builder
	if p := f.Position(); p != "" {
		b.WriteString(p + ": ")
	}
	b.WriteString(f.Severity.String() + ": ")
	if r := f.Resource(); r != "" {
		b.WriteString(r + ": ")
	}
	if f.Path != "" {
		b.WriteString(f.Path + ": ")
	}
	b.WriteString(f.Message + " [" + f.Code)
	if f.Istio != "" {
		b.WriteString(", " + f.Istio)
	}
	b.WriteString("]")
	return b.String()
}

// Findings are sorted by file, line, path and code.
type Findings []Finding

func (fs Findings) sort() {
	slices.SortStableFunc(fs, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Message, b.Message))
	})
}

// Count counts those of a severity.
func (fs Findings) Count(s Severity) int {
	n := 0
	for i := range fs {
		if fs[i].Severity == s {
			n++
		}
	}
	return n
}

// RefusedError says which resources could not be taken.
type RefusedError struct{ Findings Findings }

func (e *RefusedError) Error() string {
	s := e.Findings[0].String()
	if n := len(e.Findings) - 1; n > 0 {
		s += fmt.Sprintf(" (and %d more)", n)
	}
	return s
}

// Err is a *RefusedError if a resource was refused, otherwise nil. Findings of
// severity Error that do not refuse (a route to a host that does not exist) are
// no reason not to run the rest, as Istio does.
func (fs Findings) Err() error {
	var refused Findings
	for _, f := range fs {
		if f.Refused {
			refused = append(refused, f)
		}
	}
	if len(refused) == 0 {
		return nil
	}
	return &RefusedError{refused}
}
