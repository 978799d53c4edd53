// Package trust keeps a proxy's trust bundle right while it runs.
//
// What enters: bundles that seined sends over its stream, and the bundle file, which
// the cluster keeps. What leaves: roots in a mtls.Source, and certificates that are
// asked for anew when another root signs. It never trusts a root because it once did:
// what seined says replaces what was, and the file is for finding seined alone.
package trust

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/seinemesh/seine/mtls"
)

// Keeper keeps the roots of one Source. Set the fields, then use it from any
// goroutine; Run makes it look at the file.
type Keeper struct {
	Source      *mtls.Source
	TrustDomain string
	File        string // PEM, as the cluster has it
	// Reconnect ends the stream to seined and begins another, so that seined sees the
	// new certificate.
	Reconnect func()
	Jitter    time.Duration // a new certificate is asked for within it; 0: 2 seconds
	Every     time.Duration // between looks at the file; 0: 5 seconds
	Log       *slog.Logger  // nil: discards

	mu      sync.Mutex
	signing *x509.Certificate // the root that the next certificate must lead to; nil: it does
	once    sync.Once
}

// Take puts a bundle into force. signing names the one of its roots that signs now:
// if our certificate leads to another one, a new one is asked for soon. An empty
// bundle changes nothing. With an error nothing has changed.
func (k *Keeper) Take(bundle []byte, name, signing string) error {
	k.once.Do(k.start)
	if len(bundle) == 0 {
		return nil
	}
	roots, err := mtls.ParseBundle(bundle)
	if err != nil {
		return fmt.Errorf("trust bundle %s: %w", name, err)
	}
	if id := mtls.BundleID(roots...); id != name {
		return fmt.Errorf("trust bundle %.64q holds the roots of %s", name, id)
	}
	var by *x509.Certificate
	for _, r := range roots {
		if mtls.BundleID(r) == signing {
			by = r
		}
	}
	if by == nil {
		return fmt.Errorf("trust bundle %s lacks the root %.64q that signs", name, signing)
	}
	before := k.Source.Roots()[k.TrustDomain]
	if err := k.Source.SetRoots(map[string][]*x509.Certificate{k.TrustDomain: roots}); err != nil {
		return err
	}
	if mtls.BundleID(before...) != name {
		k.Log.Info("trust bundle in force", "bundle", name, "roots", len(roots), "signs", signing)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.Source.LeadsTo(by) {
		k.signing = nil
		return nil
	}
	if k.signing == nil || !k.signing.Equal(by) {
		k.signing = by
		// Not all proxies of the mesh at one moment.
		time.AfterFunc(rand.N(k.Jitter), k.Source.Renew)
		k.Log.Info("another root signs now: asking for a new certificate", "root", signing)
	}
	return nil
}

// start fills in defaults and listens for certificates.
func (k *Keeper) start() {
	if k.Jitter <= 0 {
		k.Jitter = 2 * time.Second
	}
	if k.Every <= 0 {
		k.Every = 5 * time.Second
	}
	if k.Log == nil {
		k.Log = slog.New(slog.DiscardHandler)
	}
	k.Source.Notify(k.renewed)
}

// renewed is called after each change of the source.
func (k *Keeper) renewed() {
	// Take holds mu while nothing of the source changes but by Take itself.
	k.mu.Lock()
	done := k.signing != nil && k.Source.LeadsTo(k.signing)
	if done {
		k.signing = nil
	}
	k.mu.Unlock()
	if done && k.Reconnect != nil {
		k.Reconnect()
	}
}

// Run looks at the file until ctx ends. When it changes and says something else than
// what is in force, a new certificate is asked for: of a seined that is verified by
// it, with the bundle of now. So a proxy that was away during a whole rotation, whose
// roots vouch for no seined any more, finds back.
func (k *Keeper) Run(ctx context.Context) error {
	k.once.Do(k.start)
	tick := time.NewTicker(k.Every)
	defer tick.Stop()
	last, said := "", ""
	for {
		roots, err := k.read()
		switch {
		case err != nil:
			if said != err.Error() {
				said = err.Error()
				k.Log.Warn("the trust bundle's file cannot be read", "err", err)
			}
		default:
			said = ""
			id := mtls.BundleID(roots...)
			current := k.Source.Roots()[k.TrustDomain]
			if last != "" && id != last && current != nil && id != mtls.BundleID(current...) {
				k.Log.Info("the trust bundle's file has changed: asking for a new certificate", "bundle", id)
				time.AfterFunc(rand.N(k.Jitter), k.Source.Renew)
			}
			last = id
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (k *Keeper) read() ([]*x509.Certificate, error) {
	const most = 1 << 20
	f, err := os.Open(k.File)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	roots, err := mtls.ParseBundle(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.File, err)
	}
	return roots, nil
}
