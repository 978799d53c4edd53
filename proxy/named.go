//go:build linux

package proxy

import (
	seinev1 "github.com/seinemesh/seine/api/seine/v1"
	"github.com/seinemesh/seine/decide"
	"github.com/seinemesh/seine/proxy/sniff"
)

// named reads the ClientHello with which the application begins, where the name
// in it may decide. Nothing of it is consumed: it goes on as it came.
func (a *arrival) named() bool {
	for a.sni == "" {
		if len(a.data) > 0 {
			hello, _, state := sniff.ClientHello(a.data)
			if state == sniff.Complete {
				a.sni = decide.ServerName(hello.SNI)
			}
			if state != sniff.Partial && a.sni == "" {
				a.stage = detecting // no TLS, or no name: the address decides
				return true
			}
			if a.sni != "" {
				break
			}
		}
		if a.eof || !a.fill() {
			if a.eof && a.err == nil {
				a.stage = detecting
				return true
			}
			return false
		}
		if a.err != nil {
			a.drop(true)
			return false
		}
	}
	a.w.loop.Disarm(&a.grace)
	if u := a.probe; u != nil { // dialled for a server that speaks first: the name may lead elsewhere
		a.probe = nil
		a.route.release()
		u.drop(true)
	}
	if a.answer.Proto.BySni {
		w := a.w
		w.name = decide.AppendTLSName(w.name[:0], a.dialled.Port(), a.sni)
		ans := a.lookUp(w.current())
		if ans == nil {
			return false
		}
		if ans.Proto.Kind == seinev1.Answer_ROUTES && ans.MatchTCP(a.dialled, a.sni) != nil {
			a.answer = ans
		}
		w.loop.Arm(&a.timer, w.loop.Now()+int64(w.p.o.HeadTimeout))
	}
	a.stage = detecting
	return true
}
