// Package check looks at a cluster, before and after an installation, and says
// line by line what is well, what is not, and what to do.
//
// What enters is what the API server and seined answer; lines leave. It stores
// nothing in the cluster: what it tries, it tries as a dry run; only the probe
// pod, which must be asked for, is made and removed again.
package check

import (
	"context"
	"fmt"
	"time"

	"k8s.io/client-go/rest"

	"github.com/seinemesh/seine/host"
	"github.com/seinemesh/seine/install/deploy"
)

// Status is how one line stands.
type Status string

// The statuses. Unknown is what could not be looked at; it fails nothing.
const (
	OK      Status = "ok"
	Warning Status = "warning"
	Failed  Status = "failed"
	Unknown Status = "unknown"
)

// Line is one thing that was looked at. Its JSON form is that of `seine check -o
// json`.
type Line struct {
	Section string `json:"section"`
	Name    string `json:"name"`
	Status  Status `json:"status"`
	Detail  string `json:"detail,omitempty"` // what is so
	Mend    string `json:"mend,omitempty"`   // what to do; never with OK
}

// Checker looks at one cluster. Its methods hand each line to Say as it is known.
type Checker struct {
	Cluster   *deploy.Cluster
	Config    *rest.Config
	Namespace string
	Revision  string
	Version   string // of the program that asks
	Values    map[string]any
	Say       func(Line)
	Now       func() time.Time
	// Machine reads the machine that this program runs on (host.Sampler.Read).
	Machine func(time.Time) (host.Reading, error)

	section string
}

// each bounds one question.
const each = 15 * time.Second

func (c *Checker) line(status Status, name, detail, mend string) {
	if status == OK {
		mend = ""
	}
	c.Say(Line{Section: c.section, Name: name, Status: status, Detail: detail, Mend: mend})
}

// asked reports an error of the cluster itself as a line; true if there was one.
func (c *Checker) asked(name string, err error) bool {
	if err == nil {
		return false
	}
	c.line(Unknown, name, err.Error(), "may you read it? ask again as a cluster administrator")
	return true
}

// run does one section's questions, each within its time.
func (c *Checker) run(ctx context.Context, section string, questions ...func(context.Context)) {
	c.section = section
	for _, q := range questions {
		if ctx.Err() != nil {
			c.line(Unknown, "the rest of "+section, "there was no time left", "run it again with a longer --timeout")
			return
		}
		within, cancel := context.WithTimeout(ctx, each)
		q(within)
		cancel()
	}
}

// plural is "1 pod", "2 pods".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
