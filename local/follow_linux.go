package local

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/seinemesh/seine/config"
	"github.com/seinemesh/seine/config/files"
)

// follow applies each good configuration, and tells of each bad one.
func (r *runner) follow(ctx context.Context, source *files.Source) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for {
			select {
			case res := <-r.latest:
				r.apply(ctx, res)
			case <-ctx.Done():
				return
			}
		}
	})
	said, told := "", map[string]bool{}
	for _, f := range r.config.Findings {
		told[f.String()] = true // check has told them
	}
	err := source.Watch(ctx, func(e config.Event) {
		if e.Err != nil {
			// seined says the same; once is enough, and here it is seen.
			if said != e.Err.Error() {
				said = e.Err.Error()
				r.print.event("configuration not taken, the last good one stays: %v", e.Err)
			}
			return
		}
		if said != "" {
			said = ""
			r.print.event("configuration taken again")
		}
		told = r.tell(e.Findings, told)
		r.adopt(e.Result)
		select { // replace what apply has not taken yet
		case <-r.latest:
		default:
		}
		r.latest <- e.Result
	})
	if ctx.Err() == nil {
		r.print.event("changes are no longer followed: %v", err)
	}
}

// maxTold bounds what one change prints.
const maxTold = 10

// tell prints what is wrong with a configuration that is taken all the same (a
// route to a subset that nobody defines), and was not in the one before.
func (r *runner) tell(findings config.Findings, before map[string]bool) map[string]bool {
	now, fresh := map[string]bool{}, 0
	for i := range findings {
		f := &findings[i]
		if f.Severity < config.Warning {
			continue
		}
		text := f.String()
		now[text] = true
		if before[text] {
			continue
		}
		if fresh++; fresh <= maxTold {
			r.print.event("%s", text)
		}
	}
	if fresh > maxTold {
		r.print.event("(and %d more: see seine analyze)", fresh-maxTold)
	}
	return now
}

// wanted are the members that a configuration asks for and that do not run.
func (r *runner) wanted(res *config.Result) []*member {
	var missing []*member
	again := map[string]bool{} // who comes back gets its address back
	r.mu.Lock()
	for _, l := range res.Local {
		for n := range l.Replicas {
			m := r.describe(l, l.Instance(n+1))
			if r.members[m.key] == nil {
				missing = append(missing, m)
				again[m.key] = true
			}
		}
	}
	taken := map[netip.Addr]bool{}
	for _, w := range res.Snapshot.Workloads {
		for _, a := range w.Addresses {
			taken[a] = taken[a] || !again[w.Key()]
		}
	}
	for _, m := range r.members {
		taken[m.entry.Addr] = true
	}
	r.mu.Unlock()
	r.allot(missing, taken)
	return missing
}

// allot gives each member an address that follows from its name, unless another
// has it.
func (r *runner) allot(members []*member, taken map[netip.Addr]bool) {
	var keys []string
	for _, m := range members {
		keys = append(keys, m.key)
	}
	addrs := config.Allocate(r.world.prefix, keys, taken)
	for _, m := range members {
		m.entry.Addr = addrs[m.key]
	}
}

// apply makes what runs follow the configuration: members that are no longer
// wanted stop, missing ones start, and those whose description changed are
// replaced one after the other, so that a service with several keeps serving.
// It gives way to a newer configuration.
func (r *runner) apply(ctx context.Context, res *config.Result) {
	if r.config != nil && !slices.EqualFunc(r.config.Publish, res.Publish, samePublish) {
		r.print.event("what is published on this host changed: start seine up again to apply that")
	}
	r.config = res
	want := map[string]string{}
	for _, l := range res.Local {
		for n := range l.Replicas {
			m := r.describe(l, l.Instance(n+1))
			want[m.key] = m.digest
		}
	}
	var gone, changed []*member
	for _, m := range r.list() {
		switch digest, ok := want[m.key]; {
		case m.local == nil:
		case !ok:
			gone = append(gone, m)
		case digest != m.digest:
			changed = append(changed, m)
		}
	}
	r.remove(ctx, gone)
	r.add(ctx, res)
	for _, m := range changed {
		if len(r.latest) > 0 || ctx.Err() != nil {
			return
		}
		r.remove(ctx, []*member{m})
		r.add(ctx, res)
		r.settle(ctx, m.key)
	}
}

// add starts what a configuration asks for and does not run.
func (r *runner) add(ctx context.Context, res *config.Result) {
	if ctx.Err() != nil {
		return
	}
	missing := r.wanted(res)
	for _, m := range missing {
		r.print.event("%s: described anew, starting", m.name())
		if err := r.entries.write(&m.entry); err != nil {
			r.print.event("%s: %v", m.name(), err)
		}
	}
	r.start(missing)
}

// settle waits until a member is ready, for a bounded time, and until the mesh
// has heard of it.
func (r *runner) settle(ctx context.Context, key string) {
	patience := r.clock.After(serversFirst)
	for {
		r.mu.Lock()
		m := r.members[key]
		r.mu.Unlock()
		wait := lookSoon
		if m == nil || m.notReady() == "" {
			wait, m = settling, nil
		}
		select {
		case <-r.clock.After(wait):
		case <-patience:
			return
		case <-ctx.Done():
			return
		}
		if m == nil {
			return
		}
	}
}

func samePublish(a, b config.Publish) bool {
	return a.Port == b.Port && a.Host == b.Host && a.To == b.To
}

// goodbye is how long the mesh has to hear that an instance goes, before it goes.
const goodbye = time.Second

// remove stops members, after the others were told not to call them any more.
func (r *runner) remove(ctx context.Context, members []*member) {
	if len(members) == 0 {
		return
	}
	for _, m := range members {
		r.print.event("%s: no longer described so, stopping", m.name())
		m.leave()
	}
	select {
	case <-r.clock.After(goodbye):
	case <-ctx.Done():
		return // the mesh ends; stopAll does the rest
	}
	for _, m := range members {
		m.cancel()
	}
	for _, m := range members {
		<-m.done
		r.mu.Lock()
		delete(r.members, m.key)
		r.mu.Unlock()
	}
}
