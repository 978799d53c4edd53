//go:build linux

package proxy

// Handshakes compute on the loop, one step in a turn (decision 22): this is whose
// step it is.

// compute moves a handshake on, now or when it is its turn. A step of one costs the
// loop some 0.2 ms: there is one in a turn, between which everything else goes on, and
// those that wait are served in the order in which they came. But our own ClientHellos
// go first, three times in four: a server may take who is silent for a plaintext client.
func (s *socket) compute() {
	w := s.w
	if s.waits {
		return
	}
	if turn := w.loop.Turn(); len(w.opening)+len(w.shaking) == 0 && w.shookAt != turn {
		w.shookAt = turn
		s.move()
		return
	}
	s.waits = true
	if _, dialled := s.owner.(*upstream); dialled && !s.begun {
		w.opening = append(w.opening, s)
	} else {
		w.shaking = append(w.shaking, s)
	}
	w.shakeLater()
}

// shakeLater has the next of those that wait served in the next turn.
func (w *worker) shakeLater() {
	if !w.shakeDue {
		w.shakeDue = true
		w.loop.Later((*shakes)(w))
	}
}

// shakes is a worker as the task that lets one handshake have its turn.
type shakes worker

// Resume is called once in a turn while handshakes wait.
func (t *shakes) Resume() {
	w := (*worker)(t)
	w.shakeDue = false
	for len(w.opening)+len(w.shaking) > 0 {
		queue := &w.opening
		if w.shakes++; len(w.opening) == 0 || w.shakes%4 == 0 && len(w.shaking) > 0 {
			queue = &w.shaking
		}
		s := (*queue)[0]
		(*queue)[0] = nil
		if *queue = (*queue)[1:]; len(*queue) == 0 {
			*queue = nil
		}
		s.waits = false
		if s.closed || !s.handshaking {
			continue
		}
		w.shookAt = w.loop.Turn()
		if s.move(); !s.handshaking {
			s.owner.ready()
		}
		break
	}
	if len(w.opening)+len(w.shaking) > 0 {
		w.shakeLater()
	}
}

// move lets the handshake have what has come.
func (s *socket) move() {
	if !s.begun {
		s.begun = true
		s.session.Handshake(s.w.wake)
		if len(s.data) > 0 {
			if err := s.session.Feed(s.data); err != nil {
				s.fail(err)
			}
			s.consume(len(s.data))
		}
	}
	s.shake()
}
