//go:build linux

package proxy

import (
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/proxy/control"
)

// addressed is the answer to the address that a client's connection dialled,
// valid for one table.
type addressed struct {
	table  *decide.Table
	answer *decide.Answer // nil: the Host decides
	use    *control.Use
}

// byAddress finds the answer to the address that was dialled, if that decides on
// the request whatever its Host (Gateway API routes); nil if the Host does.
// False: the request waits, or was answered.
//
// The address stays asked for as long as requests come, also where the Host
// decides: a route that is attached later must not be missed by a connection
// that is kept alive.
func (x *exchange) byAddress() (*decide.Answer, bool) {
	if x.caller.door.kind != doorOutbound {
		return nil, true
	}
	w, c := x.w, &x.caller.addressed
	if t := w.current(); c.table != t {
		w.name = decide.AppendAddressName(w.name[:0], x.dialled)
		a, ok := x.ask(t)
		if !ok {
			return nil, false
		}
		*c = addressed{table: t, use: w.p.tables.Use(string(w.name))}
		if a.ByAddress() {
			c.answer = a
		}
	}
	c.use.Touch()
	return c.answer, true
}
