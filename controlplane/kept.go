package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seinemesh/seine/config/kube"
)

const (
	keptName = "seine-kept" // the ConfigMap of the default revision
	keptKey  = "resources.json"
	// keptEvery is how often what is refused is looked at, and keptAgain how often
	// the ConfigMap is asked for what nobody here knows, although nothing changed.
	keptEvery = time.Second
	keptAgain = 30 * time.Second
	// keptBytes bounds the ConfigMap, which the API server holds to 1 MiB.
	keptBytes = 512 << 10
)

// good is what keepGood reads and gives: config/kube's Source.
type good interface {
	Kept() (good, without []kube.Kept, ok bool)
	Recall([]kube.Kept)
}

// kept is the ConfigMap that remembers, over restarts, which versions hold in the place
// of resources that are refused.
type kept struct {
	s      *server
	source good
	last   string    // what was looked at last
	at     time.Time // when
	full   bool      // it was said that not all fits
}

// run keeps the ConfigMap and what the source remembers in step until ctx ends.
// Every replica reads it; the leader writes it.
func (k *kept) run(ctx context.Context) error {
	tick := time.NewTicker(keptEvery)
	defer tick.Stop()
	said := ""
	for {
		err := k.step(ctx, time.Now())
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			k.s.log.Warn("which versions of refused resources still hold cannot be kept; it is tried again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// recall reads the ConfigMap before anything else is read.
func (k *kept) recall(ctx context.Context) error {
	m, err := k.read(ctx)
	if err != nil {
		return err
	}
	k.source.Recall(m.list)
	return nil
}

func (k *kept) step(ctx context.Context, now time.Time) error {
	good, without, ok := k.source.Kept()
	if !ok {
		return nil
	}
	term, _ := k.s.lead.current()
	looked := fmt.Sprint(term != nil, good, without)
	if looked == k.last && (len(without) == 0 || now.Sub(k.at) < keptAgain) {
		return nil
	}
	if k.last == "" && len(good)+len(without) == 0 && term == nil {
		return nil
	}
	m, err := k.read(ctx)
	if err != nil {
		return err
	}
	// What nobody here remembers somebody else may, or did: it is not given up.
	var others []kube.Kept
	for _, stored := range m.list {
		if slices.ContainsFunc(without, func(w kube.Kept) bool { return same(&w, &stored) }) {
			others = append(others, stored)
		}
	}
	k.source.Recall(others)
	if term != nil {
		if err := k.write(ctx, m, append(slices.Clip(good), others...)); err != nil {
			return err
		}
	}
	k.last, k.at = looked, now
	return nil
}

func same(a, b *kube.Kept) bool {
	return a.UID == b.UID && a.Group == b.Group && a.Kind == b.Kind && a.Namespace == b.Namespace && a.Name == b.Name
}

// stored is the ConfigMap as it was read.
type stored struct {
	object *corev1.ConfigMap // nil: there is none
	list   []kube.Kept
}

func (k *kept) name() string { return keptName + k.s.opt.Cluster.suffix() }

func (k *kept) read(ctx context.Context) (stored, error) {
	c := k.s.opt.Cluster
	m, err := c.Client.CoreV1().ConfigMaps(c.Namespace).Get(ctx, k.name(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return stored{}, nil
	}
	if err != nil {
		return stored{}, fmt.Errorf("ConfigMap %s/%s: %w", c.Namespace, k.name(), err)
	}
	out := stored{object: m}
	if err := json.Unmarshal([]byte(m.Data[keptKey]), &out.list); err != nil {
		k.s.log.Warn("what is kept cannot be read, and is written anew", "configmap", c.Namespace+"/"+k.name(), "err", err)
		out.list = nil
	}
	return out, nil
}

// write brings the ConfigMap to list; where that is empty there is none.
func (k *kept) write(ctx context.Context, m stored, list []kube.Kept) error {
	c := k.s.opt.Cluster
	maps := c.Client.CoreV1().ConfigMaps(c.Namespace)
	list = k.bounded(list)
	var err error
	switch {
	case len(list) == 0 && m.object == nil, m.object != nil && len(list) > 0 && reflect.DeepEqual(list, m.list):
		return nil
	case len(list) == 0:
		err = maps.Delete(ctx, k.name(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &m.object.UID}})
		if apierrors.IsNotFound(err) {
			err = nil
		}
	default:
		var text []byte
		if text, err = json.Marshal(list); err != nil {
			return err
		}
		next := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: k.name()}}
		if m.object != nil {
			next = m.object.DeepCopy() // with its version: who wrote meanwhile wins
		}
		next.Labels = map[string]string{"app.kubernetes.io/name": "seined", "app.kubernetes.io/managed-by": "seined"}
		next.Data = map[string]string{keptKey: string(text)}
		if m.object == nil {
			_, err = maps.Create(ctx, next, metav1.CreateOptions{})
		} else {
			_, err = maps.Update(ctx, next, metav1.UpdateOptions{})
		}
	}
	if err != nil {
		return fmt.Errorf("ConfigMap %s/%s: %w", c.Namespace, k.name(), err)
	}
	return nil
}

// bounded leaves out what does not fit: the largest.
func (k *kept) bounded(list []kube.Kept) []kube.Kept {
	size := 0
	for i := range list {
		size += len(list[i].Data) + 256 // and its name, about
	}
	if size <= keptBytes {
		k.full = false
		return list
	}
	list = slices.Clone(list)
	for size > keptBytes {
		at := 0
		for i := range list {
			if len(list[i].Data) > len(list[at].Data) {
				at = i
			}
		}
		if size -= len(list[at].Data) + 256; !k.full {
			k.full = true
			k.s.log.Warn("too much is refused to keep what holds instead over a restart: mend it", "left_out", list[at].Kind+" "+list[at].Namespace+"/"+list[at].Name)
		}
		list = slices.Delete(list, at, at+1)
	}
	return list
}
