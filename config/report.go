package config

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// Report is what `seine analyze -o json` prints. Fields are only ever added.
type Report struct {
	Findings Findings `json:"findings"` // by file, line, path and code; never null
	Errors   int      `json:"errors"`
	Warnings int      `json:"warnings"`
	Infos    int      `json:"infos"`
	Services int      `json:"services"` // taken into the model
	Routes   int      `json:"virtualServices"`
	Rules    int      `json:"destinationRules"`
	Policies int      `json:"policies"`
}

// NewReport sums r up.
func NewReport(r *Result) *Report {
	fs := r.Findings
	if fs == nil {
		fs = Findings{}
	}
	s := r.Snapshot
	return &Report{
		Findings: fs, Errors: fs.Count(Error), Warnings: fs.Count(Warning), Infos: fs.Count(Info),
		Services: len(s.Services), Routes: len(s.VirtualServices), Rules: len(s.DestinationRules), Policies: len(s.PeerAuth),
	}
}

// Of is r with the findings of a namespace, of files, and of what has none.
func (r *Report) Of(namespace string) *Report {
	out := *r
	out.Findings = slices.DeleteFunc(slices.Clone(r.Findings), func(f Finding) bool {
		return f.File == "" && f.Namespace != "" && f.Namespace != namespace
	})
	out.Errors, out.Warnings, out.Infos = out.Findings.Count(Error), out.Findings.Count(Warning), out.Findings.Count(Info)
	return &out
}

// WriteJSON prints r, indented.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(r)
}

// TextOptions say how WriteText prints.
type TextOptions struct {
	Colour bool
	Infos  bool // list findings of severity Info too; otherwise they are counted
	Failed bool // say "not ok" though there is no error
}

// WriteText prints r for people: the findings grouped by file, then a summary.
func (r *Report) WriteText(w io.Writer, opt TextOptions) error {
	paint := func(code, s string) string {
		if !opt.Colour {
			return s
		}
		return "\x1b[" + code + "m" + s + "\x1b[0m"
	}
	colours := map[Severity]string{Error: "1;31", Warning: "1;33", Info: "36"}
	file, printed := "", false
	for i := range r.Findings {
		f := &r.Findings[i]
		if f.Severity == Info && !opt.Infos {
			continue
		}
		if !printed || f.File != file {
			if printed {
				fmt.Fprintln(w)
			}
			file, printed = f.File, true
			fmt.Fprintln(w, paint("1", firstOf(file, "(no file)")))
		}
		where := ""
		if f.Line > 0 {
			where = fmt.Sprintf("%d: ", f.Line)
		}
		what := ""
		for _, s := range []string{f.Resource(), f.Path} {
			if s != "" {
				what += " " + s
			}
		}
		code := f.Code
		if f.Istio != "" {
			code += ", " + f.Istio
		}
		fmt.Fprintf(w, "  %s%s%s\n      %s %s\n", where, paint(colours[f.Severity], f.Severity.String()), what, f.Message, paint("2", "["+code+"]"))
	}
	if printed {
		fmt.Fprintln(w)
	}
	summary := fmt.Sprintf("%s, %s", plural(r.Errors, "error"), plural(r.Warnings, "warning"))
	if r.Infos > 0 {
		summary += ", " + plural(r.Infos, "note")
		if !opt.Infos {
			summary += " (shown with --info)"
		}
	}
	mark := paint("32", "ok")
	if r.Errors > 0 || opt.Failed {
		mark = paint("1;31", "not ok")
	}
	_, err := fmt.Fprintf(w, "%s: %s in %s, %s, %s, %s\n", mark, summary, plural(r.Services, "service"),
		plural(r.Routes, "VirtualService"), plural(r.Rules, "DestinationRule"), plural(r.Policies, "authentication policy"))
	return err
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if what[len(what)-1] == 'y' {
		what = what[:len(what)-1] + "ie"
	}
	return fmt.Sprintf("%d %ss", n, what)
}
