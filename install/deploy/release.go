package deploy

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/seinemesh/seine/install"
)

const (
	// kept is how many releases the history remembers.
	kept = 5
	// maxRelease bounds one release, unpacked, bytes.
	maxRelease = 4 << 20
	// historyType is the Secret's type, so that nobody takes it for another's.
	historyType = "seine.dev/releases"
)

// Statuses of a release.
const (
	// Applying: begun, and not (yet) ended well.
	Applying = "applying"
	// Deployed: everything was applied and became ready.
	Deployed = "deployed"
)

// ErrHelm is wrapped where Helm owns the installation.
var ErrHelm = errors.New("installed by helm")

// Release is one installation or upgrade, as the history keeps it.
type Release struct {
	Number  int                          `json:"number"`
	Version string                       `json:"version"`
	Status  string                       `json:"status"`
	Time    time.Time                    `json:"time"`
	Values  map[string]any               `json:"values,omitempty"`
	Objects []*unstructured.Unstructured `json:"objects"` // without definitions
}

// history is the releases of one revision, oldest first, in one Secret: it may
// hold what users put into values.
type history struct {
	namespace, revision string
	secret              *corev1.Secret // as read; nil: none yet
	releases            []Release
}

// History reads the releases of a revision, oldest first; none is no error.
func (c *Cluster) History(ctx context.Context, namespace, revision string) ([]Release, error) {
	h, err := c.history(ctx, namespace, revision)
	if err != nil {
		return nil, err
	}
	return h.releases, nil
}

func (c *Cluster) history(ctx context.Context, namespace, revision string) (*history, error) {
	h := &history{namespace: namespace, revision: revision}
	s, err := c.Kube.CoreV1().Secrets(namespace).Get(ctx, historyName(revision), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return h, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the history of releases: %w", hint(err))
	}
	h.secret = s
	for key, data := range s.Data {
		var r Release
		if err := unpack(data, &r); err != nil {
			return nil, fmt.Errorf("history of releases: Secret %s/%s, key %s: %w; delete that key to go on without it", namespace, s.Name, key, err)
		}
		h.releases = append(h.releases, r)
	}
	slices.SortFunc(h.releases, func(a, b Release) int { return a.Number - b.Number })
	return h, nil
}

// last returns the newest release; nil if there is none.
func (h *history) last() *Release {
	if len(h.releases) == 0 {
		return nil
	}
	return &h.releases[len(h.releases)-1]
}

// good returns the newest deployed release before number; nil if there is none.
func (h *history) good(before int) *Release {
	for i := len(h.releases) - 1; i >= 0; i-- {
		if r := &h.releases[i]; r.Number < before && r.Status == Deployed {
			return r
		}
	}
	return nil
}

// put writes r into the history. Two installations at once cannot both succeed.
func (c *Cluster) put(ctx context.Context, h *history, r Release) error {
	h.releases = slices.DeleteFunc(h.releases, func(o Release) bool { return o.Number == r.Number })
	h.releases = append(h.releases, r)
	if n := len(h.releases) - kept; n > 0 {
		h.releases = slices.Delete(h.releases, 0, n)
	}
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: historyName(h.revision), Namespace: h.namespace, Labels: map[string]string{
			install.LabelPartOf: install.PartOf, install.LabelRevision: h.revision, install.LabelManagedBy: install.PartOf,
		}},
		Type: historyType,
		Data: map[string][]byte{},
	}
	for _, r := range h.releases {
		data, err := pack(r)
		if err != nil {
			return fmt.Errorf("history of releases: %w", err)
		}
		s.Data[strconv.Itoa(r.Number)] = data
	}
	var err error
	if secrets := c.Kube.CoreV1().Secrets(h.namespace); h.secret == nil {
		s, err = secrets.Create(ctx, s, metav1.CreateOptions{FieldManager: FieldManager})
	} else {
		s.ResourceVersion = h.secret.ResourceVersion
		s, err = secrets.Update(ctx, s, metav1.UpdateOptions{FieldManager: FieldManager})
	}
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("another installation of revision %s goes on at the same time: %w; wait for its end and run this again", h.revision, err)
	}
	if err != nil {
		return fmt.Errorf("write the history of releases: %w", hint(err))
	}
	h.secret = s
	return nil
}

func historyName(revision string) string { return install.Name("seine-releases", revision) }

func pack(r Release) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := json.NewEncoder(z).Encode(r); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func unpack(data []byte, r *Release) error {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return err
	}
	plain, err := io.ReadAll(io.LimitReader(z, maxRelease+1))
	if err != nil {
		return err
	}
	if len(plain) > maxRelease {
		return fmt.Errorf("larger than %d bytes", maxRelease)
	}
	return json.Unmarshal(plain, r)
}
