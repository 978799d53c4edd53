//go:build linux

package main

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"time"
)

// wait returns when the sidecar is ready: the hook of an ordinary sidecar that
// holds the application back on clusters without native ones.
func wait(args []string, out io.Writer) error {
	f := flag.NewFlagSet("wait", flag.ContinueOnError)
	f.SetOutput(out)
	url := f.String("url", "http://127.0.0.1:15021/healthz/ready", "readiness")
	limit := f.Duration("timeout", time.Minute, "how long to wait at most")
	if err := f.Parse(args); err != nil {
		return err
	}
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	end := time.NewTimer(*limit)
	defer end.Stop()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		var last string
		switch answer, err := client.Get(*url); {
		case err != nil:
			last = err.Error()
		case answer.StatusCode == http.StatusOK:
			return answer.Body.Close()
		default:
			b, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
			_ = answer.Body.Close()
			last = string(b)
		}
		select {
		case <-again.C:
		case <-end.C:
			return fmt.Errorf("wait: the sidecar is not ready after %v: %s", *limit, last)
		}
	}
}
