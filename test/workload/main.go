// Command workload is the one program inside the lab's test image.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(log.Ltime | log.Lmicroseconds)
	if len(os.Args) < 2 {
		log.Fatal("usage: workload pause|serve|fetch [flags]")
	}
	args := os.Args[2:]
	switch os.Args[1] {
	case "pause":
		wait()
	case "serve":
		serve(args)
	case "fetch":
		fetch(args)
	default:
		log.Fatalf("unknown command %q", os.Args[1])
	}
}

func wait() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM)
	<-c
}

func serve(args []string) {
	fs := flag.NewFlagSet("serve", flag.ExitOnError)
	addr := fs.String("addr", ":8080", "")
	fs.Parse(args)
	host, _ := os.Hostname()
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "host=%s path=%s remote=%s\n", host, r.URL.Path, r.RemoteAddr)
	})
	log.Print("serving on ", *addr)
	go func() { log.Fatal(http.ListenAndServe(*addr, nil)) }()
	wait()
}

func fetch(args []string) {
	fs := flag.NewFlagSet("fetch", flag.ExitOnError)
	n := fs.Int("n", 1, "requests, each on a new connection")
	fs.Parse(args)
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for range *n {
		resp, err := c.Get(fs.Arg(0))
		if err != nil {
			log.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Printf("%d %s", resp.StatusCode, b)
	}
}
