// Package dashboard opens a control plane's pages and API to a browser of this
// machine: on a loopback address, which every user of the machine reaches, for
// the one who has the token alone.
//
// In: a way to connect to the control plane, and a token. Out: an HTTP handler.
// The pages themselves are anybody's, for they hold nothing; what they ask for
// is not. The token stands behind the # of the link, which a browser sends to
// nobody, and comes back in the header Authorization, which no other page can
// make it send. Nothing can be changed through it.
package dashboard

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"
)

// Options are what a Handler is made of.
type Options struct {
	Dial  func(context.Context) (net.Conn, error) // a connection to the control plane's API
	Token string
	// Metrics also lets who has no token read metrics, those of seined and of each
	// proxy: a Prometheus of this machine runs as another user.
	Metrics bool
}

// NewToken is one that nobody guesses.
func NewToken() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails: crypto/rand
	return hex.EncodeToString(b)
}

// Link is what a person opens.
func Link(address, token string) string { return "http://" + address + "/#token=" + token }

// Handler relays what changes nothing.
func Handler(o Options) http.Handler {
	relay := &httputil.ReverseProxy{
		// The Host that the browser named goes on: the control plane refuses names
		// that were only pointed at this machine.
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "seined"})
			r.Out.Host = r.In.Host
			r.Out.Header.Del("Authorization")
		},
		Transport: &http.Transport{
			DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return o.Dial(ctx) },
			MaxIdleConnsPerHost: 8, MaxConnsPerHost: 32, IdleConnTimeout: 30 * time.Second, DisableCompression: true,
		},
		FlushInterval: -1, // what streams shall stream
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			refuse(w, http.StatusBadGateway, "the control plane does not answer: "+err.Error())
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		question := r.Method == http.MethodPost && r.URL.Path == "/api/v1/explain"
		if r.Method != http.MethodGet && r.Method != http.MethodHead && !question {
			refuse(w, http.StatusForbidden, "this address is for reading: changes are made over the control plane's socket, as the seine command does")
			return
		}
		if !o.open(r.URL.Path) && !o.holds(r) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			refuse(w, http.StatusUnauthorized, "the token is missing or of another run: `seine dashboard` makes a link that has it")
			return
		}
		relay.ServeHTTP(w, r)
	})
}

// open says whether a path needs no token.
func (o *Options) open(path string) bool {
	metrics := path == "/metrics" || path == "/api/v1/sd" ||
		strings.HasPrefix(path, "/api/v1/proxies/") && strings.HasSuffix(path, "/metrics") && !strings.Contains(path, "..")
	if metrics {
		return o.Metrics
	}
	return !strings.HasPrefix(path, "/api/") && path != "/api"
}

func (o *Options) holds(r *http.Request) bool {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && o.Token != "" && subtle.ConstantTimeCompare([]byte(token), []byte(o.Token)) == 1
}

func refuse(w http.ResponseWriter, code int, why string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": why}) // the reader being gone is all that can go wrong
}

// Serve serves h on l until ctx ends.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: log.New(io.Discard, "", 0)}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}
