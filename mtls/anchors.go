package mtls

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// maxVouched bounds the chains that are remembered for one set of roots.
const maxVouched = 4096

// anchors are the roots of each trust domain, and the chains that they were found
// to vouch for: a chain's signatures and names say the same each time, so they are
// looked at once. What is remembered ends with the first certificate of the chain
// that does; that the peer has the leaf's key is proved in every handshake
// (CertificateVerify), and who may do what is decided for every connection.
//
// Other roots are other anchors, with nothing remembered. Only chains that were
// accepted are kept: nobody fills it without certificates of the mesh. It is safe
// for concurrent use.
type anchors struct {
	pools map[string]*x509.CertPool

	mu sync.Mutex
	// A chain that is used stays: what was found in old moves to young, and old goes
	// when young is full.
	young, old map[fingerprint]*vouched
}

// fingerprint is a SHA-256 over what the chain is used for and all of its DER.
type fingerprint [sha256.Size]byte

// vouched is what is known of a chain.
type vouched struct {
	id          spiffeid.ID
	from, until time.Time            // in which all of it is valid
	peer        atomic.Pointer[Peer] // nil: nobody has asked
}

func fingerprintOf(chain []*x509.Certificate, usage x509.ExtKeyUsage) (f fingerprint) {
	h := sha256.New()
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(usage))
	h.Write(n[:])
	for _, c := range chain {
		binary.BigEndian.PutUint64(n[:], uint64(len(c.Raw)))
		h.Write(n[:])
		h.Write(c.Raw)
	}
	h.Sum(f[:0])
	return f
}

// verify checks a peer's certificates at a moment, as verifyChain does.
func (a *anchors) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (*vouched, error) {
	if len(chain) == 0 || len(chain) > maxChain {
		_, err := verifyChain(chain, a.pools, usage, now)
		return nil, err
	}
	key := fingerprintOf(chain, usage)
	if v := a.find(key, now); v != nil {
		return v, nil
	}
	v, err := verifyChain(chain, a.pools, usage, now)
	if err == nil {
		a.keep(key, v)
	}
	return v, err
}

func (a *anchors) find(key fingerprint, now time.Time) *vouched {
	a.mu.Lock()
	defer a.mu.Unlock()
	v, ok := a.young[key]
	if !ok {
		if v, ok = a.old[key]; !ok {
			return nil
		}
	}
	if now.Before(v.from) || now.After(v.until) {
		delete(a.young, key)
		delete(a.old, key)
		return nil
	}
	a.put(key, v)
	return v
}

func (a *anchors) keep(key fingerprint, v *vouched) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.put(key, v)
}

// put makes v one of the young ones; mu is held.
func (a *anchors) put(key fingerprint, v *vouched) {
	if _, ok := a.young[key]; ok {
		return
	}
	if len(a.young) >= maxVouched/2 {
		a.old, a.young = a.young, nil
	}
	if a.young == nil {
		a.young = map[fingerprint]*vouched{}
	}
	delete(a.old, key)
	a.young[key] = v
}

// remembered is how many chains are.
func (a *anchors) remembered() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.young) + len(a.old)
}
