package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/seinemesh/seine/test/workload/load"
)

// countsAddr is where a load tells its counts: to its own pod alone.
const countsAddr = "127.0.0.1:8090"

// paced runs a load until ctx ends.
func paced(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("load", flag.ExitOnError)
	var t target
	t.flags(fs)
	rate := fs.Float64("rate", 20, "requests per second")
	report := fs.Duration("report", 0, "print the counts so often, a line of JSON each; 0: never")
	fs.Parse(args)
	if *rate <= 0 {
		return errors.New("-rate must be above 0")
	}
	ask, err := t.asker(fs.Arg(0))
	if err != nil {
		return err
	}
	var l load.Load
	go func() {
		err := http.ListenAndServe(countsAddr, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(w).Encode(l.Counts())
		}))
		panic(err)
	}()
	if *report > 0 {
		go func() {
			for range time.Tick(*report) {
				_ = json.NewEncoder(os.Stdout).Encode(l.Counts())
			}
		}()
	}
	l.Run(ctx, *rate, func(ctx context.Context) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, t.timeout)
		defer cancel()
		who, _, err := ask(ctx)
		return who, brief(err)
	})
	return nil
}

// brief leaves the addresses out of an error, so that those of one kind count
// as one.
func brief(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return fmt.Errorf("%s: %w", op.Op, op.Err)
	}
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// counts prints the counts of the load in this pod, as JSON.
func counts(ctx context.Context, _ []string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+countsAddr, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(os.Stdout, res.Body)
	return err
}
