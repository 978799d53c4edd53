// Package mtls is mutual TLS 1.3 between workloads, over memory, for an event
// loop. Ciphertext and plaintext go in and come out as byte slices; the package
// never touches a socket.
//
// What enters: a certificate and a trust bundle (Source), the identity that a
// client expects, bytes from the wire. What leaves: bytes for the wire,
// plaintext, and the verified identity of the peer. It never writes a key to a
// file, never logs one, and never accepts a peer whose identity was not checked
// against the trust bundle of this moment, resumed connections included.
//
// # One connection in a loop
//
// A Session is used by one goroutine, its loop, on which the handshake computes, too
// (a coroutine of it); until Progress says that it is over, Room, Feed, End,
// Outgoing, Sent, Progress, Abort and Release are the only methods that may be
// called. Wake is called by another goroutine, and only for sessions that read files
// first; it posts to the loop's mailbox and returns.
//
//	s := factory.Server()            // or factory.Client(id, alts, sni, addr, alpn)
//	s.Tag = conn                     // the loop's own
//	s.Handshake(loop.wake)           // a server's begins at the full ClientHello
//	progress()
//
//	readable:                        // also while the handshake runs
//	    n := read(fd, scratch[:min(len(scratch), s.Room())])
//	    s.Feed(scratch[:n])          // error: close; at the end of the stream: s.End()
//	    if established { drain() } else { progress() }
//
//	woken (mailbox, s): progress()
//
//	progress:                        // after all that may move the handshake
//	    state, err := s.Progress()
//	    flush()                      // also on Failed: an alert says why
//	    Failed: log err, close, s.Release()
//	    Established, the first time: drain()  // the first request may lie inside already
//
//	drain:
//	    for {
//	        n, err := s.Read(plain)
//	        handle plain[:n]
//	        ErrEmpty: break          // scratch is free again
//	        io.EOF: the peer said close_notify; other errors: close
//	        budget used or upstream full: s.Hold(); call drain again later; break
//	    }
//	    flush()                      // Read may have written (KeyUpdate, alert)
//
//	flush:
//	    for out := s.Outgoing(); len(out) > 0; out = s.Outgoing() { n := write(fd, out); s.Sent(n) }
package mtls
