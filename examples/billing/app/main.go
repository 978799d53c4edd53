// Command billing is the small system of examples/billing: a frontend that
// calls billing, which calls a ledger, and a paced load. It knows nothing of a
// mesh: plain HTTP to plain names.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// The services as every role knows them.
const (
	billingURL = "http://billing-service:8080/invoice"
	ledgerURL  = "http://ledger:8080/balance"
)

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		log.Fatalln("billing:", err)
	}
}

func run(ctx context.Context, args []string) error {
	role := strings.Join(args, " ")
	mux := http.NewServeMux()
	c := newClient()
	switch role {
	case "frontend":
		mux.HandleFunc("GET /{$}", frontend(c, or(os.Getenv("BILLING_URL"), billingURL)))
	case "billing":
		mux.HandleFunc("GET /invoice", billing(c, or(os.Getenv("LEDGER_URL"), ledgerURL), or(os.Getenv("VERSION"), "v1")))
	case "ledger":
		mux.HandleFunc("GET /balance", ledger)
	case "load":
		return load(ctx, c, loadOptions{
			url: or(os.Getenv("URL"), "http://frontend:8080/"), rate: or(os.Getenv("RATE"), "50"), out: os.Stdout,
		})
	default:
		return fmt.Errorf("role %q: want frontend, billing, ledger or load", role)
	}
	return serve(ctx, role, mux)
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// newClient keeps connections open, as services do.
func newClient() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 64
	return &http.Client{Transport: t, Timeout: 10 * time.Second}
}

// serve answers at PORT until ctx ends, then lets requests finish.
func serve(ctx context.Context, role string, h http.Handler) error {
	at := net.JoinHostPort(os.Getenv("HOST"), or(os.Getenv("PORT"), "8080"))
	l, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	log.Println(role, "listens at", l.Addr())
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	// What is asked meanwhile is no longer answered; the mesh sends it elsewhere.
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	return server.Shutdown(ctx)
}

// Invoice is what billing answers.
type Invoice struct {
	Version  string `json:"version"`
	Instance string `json:"instance"`
	Cents    int    `json:"cents"`
}

// Balance is what the ledger answers.
type Balance struct {
	Cents int `json:"cents"`
}

func frontend(c *http.Client, url string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var i Invoice
		if err := fetch(r.Context(), c, url, r.Header, &i); err != nil {
			fail(w, err)
			return
		}
		w.Header().Set("x-billing-version", i.Version)
		reply(w, i)
	}
}

func billing(c *http.Client, url, version string) http.HandlerFunc {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return func(w http.ResponseWriter, r *http.Request) {
		var b Balance
		if err := fetch(r.Context(), c, url, r.Header, &b); err != nil {
			fail(w, err)
			return
		}
		reply(w, Invoice{Version: version, Instance: or(os.Getenv("POD_NAME"), host), Cents: b.Cents})
	}
}

func ledger(w http.ResponseWriter, _ *http.Request) { reply(w, Balance{Cents: 4200}) }

// passed on are the fields that say which request this one belongs to, so that logs
// and traces tell a story: no sidecar can know it.
var passed = []string{"x-request-id", "traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags"}

// fetch gets url as JSON, on behalf of a request with these fields.
func fetch(ctx context.Context, c *http.Client, url string, of http.Header, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	for _, name := range passed {
		if v := of.Values(name); len(v) > 0 {
			req.Header[http.CanonicalHeaderKey(name)] = v
		}
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("GET %s: %w", url, err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s: %s", url, res.Status, strings.TrimSpace(string(body)))
	}
	return json.Unmarshal(body, into)
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("content-type", "application/json")
	// A client that went away is none of our business.
	_ = json.NewEncoder(w).Encode(v)
}

// fail tells the caller why; the load counts it.
func fail(w http.ResponseWriter, err error) {
	http.Error(w, err.Error(), http.StatusBadGateway)
}
