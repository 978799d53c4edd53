package local

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/seinemesh/seine/local/rundir"
	"github.com/seinemesh/seine/stat"
)

// api asks seined over its socket, and proxies whether they are ready.
type api struct {
	control *http.Client
	direct  *http.Client
}

const apiTimeout = 2 * time.Second

func newAPI(runDir string) *api {
	socket := rundir.Socket(runDir)
	return &api{
		control: &http.Client{Timeout: apiTimeout, Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			},
		}},
		// No proxy, whatever the environment says, and nothing kept open in
		// namespaces that come and go.
		direct: &http.Client{Timeout: apiTimeout, Transport: &http.Transport{DisableKeepAlives: true}},
	}
}

// healthy reports whether seined answers.
func (a *api) healthy(ctx context.Context) bool {
	return ok(ctx, a.control, "http://seined/healthz")
}

// ok reports whether url answers 200.
func (a *api) ok(ctx context.Context, url string) bool { return ok(ctx, a.direct, url) }

func ok(ctx context.Context, c *http.Client, url string) bool {
	res, err := get(ctx, c, url)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	return res.StatusCode == http.StatusOK
}

func get(ctx context.Context, c *http.Client, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return c.Do(req)
}

// table asks for the golden signals.
func (a *api) table(ctx context.Context) (*stat.Table, error) {
	var t stat.Table
	if err := a.ask(ctx, "stat", &t); err != nil {
		return nil, err
	}
	return &t, nil
}

// callable asks how many workloads the control plane lets be called.
func (a *api) callable(ctx context.Context) (int, error) {
	var c struct {
		Healthy int `json:"healthy"`
	}
	err := a.ask(ctx, "config", &c)
	return c.Healthy, err
}

func (a *api) ask(ctx context.Context, what string, into any) error {
	res, err := get(ctx, a.control, "http://seined/api/v1/"+what)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("ask seined for %s: %s", what, res.Status)
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, 16<<20)).Decode(into); err != nil {
		return fmt.Errorf("ask seined for %s: %w", what, err)
	}
	return nil
}
