//go:build linux

package loop

// Timer is one deadline, embedded in what it belongs to. A connection moves
// its deadline with every request, nearly always to a later one: that only
// writes a number, and the heap learns of it when the earlier time comes.
type Timer struct {
	// Fire is called on the loop when the deadline has passed.
	Fire func()

	when  int64 // the deadline; 0: none
	key   int64 // the place in the heap: never later than when
	index int   // 1-based; 0: not in the heap
}

// Armed reports whether the timer has a deadline.
func (t *Timer) Armed() bool { return t.when != 0 }

// When is the deadline on the scale of Loop.Now; 0 if there is none.
func (t *Timer) When() int64 { return t.when }

// Arm sets the timer's deadline, on the scale of Now.
func (l *Loop) Arm(t *Timer, when int64) {
	when = max(when, 1)
	t.when = when
	switch {
	case t.index == 0:
		t.key = when
		l.timers.push(t)
	case when < t.key:
		t.key = when
		l.timers.up(t.index - 1)
	}
}

// Disarm takes the deadline away; the timer may stay in the heap until its time comes.
func (l *Loop) Disarm(t *Timer) { t.when = 0 }

// Drop takes the timer out of the loop: needed before its holder goes away.
func (l *Loop) Drop(t *Timer) {
	t.when = 0
	if t.index != 0 {
		l.timers.remove(t.index - 1)
	}
}

// timers is a binary heap by key.
type timers struct{ heap []*Timer }

const millisecond = 1_000_000

// wait is the time until the first deadline in milliseconds, rounded up; -1 if
// there is none.
func (h *timers) wait(now int64) int {
	if len(h.heap) == 0 {
		return -1
	}
	d := h.heap[0].key - now
	if d <= 0 {
		return 0
	}
	return int(min((d+millisecond-1)/millisecond, 3_600_000))
}

// fire runs every timer whose deadline is not after now.
func (h *timers) fire(now int64) {
	for len(h.heap) > 0 {
		t := h.heap[0]
		if t.key > now {
			return
		}
		if t.when > now { // was moved: take its new place
			t.key = t.when
			h.down(0)
			continue
		}
		h.remove(0)
		if t.when != 0 {
			t.when = 0
			t.Fire()
		}
	}
}

func (h *timers) push(t *Timer) {
	h.heap = append(h.heap, t)
	t.index = len(h.heap)
	h.up(len(h.heap) - 1)
}

func (h *timers) remove(i int) {
	t := h.heap[i]
	last := len(h.heap) - 1
	if i != last {
		h.heap[i] = h.heap[last]
		h.heap[i].index = i + 1
	}
	h.heap[last] = nil
	h.heap = h.heap[:last]
	t.index = 0
	if i < last {
		h.down(i)
		h.up(i)
	}
}

func (h *timers) up(i int) {
	for i > 0 {
		p := (i - 1) / 2
		if h.heap[p].key <= h.heap[i].key {
			return
		}
		h.swap(i, p)
		i = p
	}
}

func (h *timers) down(i int) {
	for {
		c := 2*i + 1
		if c >= len(h.heap) {
			return
		}
		if c+1 < len(h.heap) && h.heap[c+1].key < h.heap[c].key {
			c++
		}
		if h.heap[i].key <= h.heap[c].key {
			return
		}
		h.swap(i, c)
		i = c
	}
}

func (h *timers) swap(i, j int) {
	h.heap[i], h.heap[j] = h.heap[j], h.heap[i]
	h.heap[i].index, h.heap[j].index = i+1, j+1
}
