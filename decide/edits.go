package decide

// Pair is a header field to be written.
type Pair struct{ Name, Value string }

// Edits are changes to a message's header: fields that are dropped from the
// original, then fields that are added. A nil *Edits changes nothing.
type Edits struct {
	drop  []string // lower case
	added []Pair
}

// Drops reports whether fields of the original with that name (any case) are
// not to be written.
func (e *Edits) Drops(name []byte) bool { return false }

// Added are the fields to write after the original's, in order; names are in
// lower case.
func (e *Edits) Added() []Pair { return nil }
