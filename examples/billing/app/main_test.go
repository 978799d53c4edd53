package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestStory(t *testing.T) {
	c := newClient()
	defer c.CloseIdleConnections()
	books := httptest.NewServer(http.HandlerFunc(ledger))
	defer books.Close()
	bills := httptest.NewServer(billing(c, books.URL, "v2"))
	defer bills.Close()
	front := httptest.NewServer(frontend(c, bills.URL))
	defer front.Close()
	res, err := c.Get(front.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var i Invoice
	if err := json.Unmarshal(body, &i); err != nil || i.Version != "v2" || i.Cents != 4200 || res.Header.Get("x-billing-version") != "v2" {
		t.Errorf("got %s, %v", body, err)
	}
	if got := ask(context.Background(), c, front.URL); got != "v2" {
		t.Errorf("the load counts it as %q", got)
	}
	books.Close()
	if got := ask(context.Background(), c, front.URL); got != "status 502" {
		t.Errorf("without a ledger the load counts %q", got)
	}
}

func TestLoad(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	seen := make(chan struct{}, 1024)
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { seen <- struct{}{} }))
	defer server.Close()
	done := make(chan error, 1)
	go func() {
		done <- load(ctx, newClient(), loadOptions{url: server.URL, rate: "500", out: io.Discard})
	}()
	for range 20 {
		<-seen
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	var b bytes.Buffer
	if err := load(ctx, nil, loadOptions{rate: "many", out: &b}); err == nil || !strings.Contains(err.Error(), "RATE") {
		t.Errorf("got %v", err)
	}
}

func TestTally(t *testing.T) {
	var c tally
	for range 9 {
		c.add("v1")
	}
	c.add("v2")
	c.add("")
	if got, want := c.take(), "10 requests, v1 9 (90.0%), v2 1 (10.0%)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := c.take(); got != "0 requests" {
		t.Errorf("then %q", got)
	}
}

func TestUnknownRole(t *testing.T) {
	if err := run(context.Background(), []string{"nobody"}); err == nil || !strings.Contains(err.Error(), `"nobody"`) {
		t.Errorf("got %v", err)
	}
}
