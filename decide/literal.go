package decide

import (
	"regexp/syntax"
	"slices"
	"unicode/utf8"
)

// literals are bytes that every text matched by a whole-string regular
// expression must hold. They are necessary, not sufficient: comparing them
// first spares most regular expressions from being run at all.
type literals struct {
	prefix, suffix, inner string
}

// findLiterals reads them from the expression's syntax; it is conservative.
func findLiterals(expr string) literals {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return literals{}
	}
	var runs [][]byte // literal runs; nil between two marks a gap
	var open bool     // the last run may be continued
	var first, last bool
	var walk func(re *syntax.Regexp)
	gap := func() {
		if len(runs) == 0 {
			first = true
		}
		open, last = false, true
	}
	walk = func(re *syntax.Regexp) {
		switch re.Op {
		case syntax.OpEmptyMatch, syntax.OpBeginText, syntax.OpEndText, syntax.OpBeginLine, syntax.OpEndLine,
			syntax.OpWordBoundary, syntax.OpNoWordBoundary:
			// no width: the bytes on both sides stay neighbours
		case syntax.OpCapture:
			walk(re.Sub[0])
		case syntax.OpConcat:
			for _, sub := range re.Sub {
				walk(sub)
			}
		case syntax.OpLiteral:
			if re.Flags&syntax.FoldCase != 0 {
				gap()
				return
			}
			if slices.Contains(re.Rune, utf8.RuneError) { // matches any invalid byte too
				gap()
				return
			}
			if !open {
				runs = append(runs, nil)
			}
			for _, r := range re.Rune {
				runs[len(runs)-1] = utf8.AppendRune(runs[len(runs)-1], r)
			}
			open, last = true, false
		case syntax.OpPlus:
			// x+ begins and ends with x, but what follows is no neighbour of what came before
			gap()
			walk(re.Sub[0])
			gap()
		default:
			gap()
		}
	}
	walk(re)
	var l literals
	if len(runs) == 0 {
		return l
	}
	if !first {
		l.prefix = string(runs[0])
	}
	if !last {
		l.suffix = string(runs[len(runs)-1])
	}
	for _, r := range runs {
		if len(r) > len(l.inner) {
			l.inner = string(r)
		}
	}
	if l.inner == l.prefix || l.inner == l.suffix {
		l.inner = "" // compared already
	}
	return l
}
