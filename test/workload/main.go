// Command workload is the application of the end-to-end tests: servers of every
// kind of protocol, clients for them, and a paced load. It knows nothing of a mesh.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
)

var commands = map[string]func(ctx context.Context, args []string) error{
	"serve": serve, "call": call, "load": paced, "counts": counts,
	"pause": func(ctx context.Context, _ []string) error { <-ctx.Done(); return nil },
}

func main() {
	log.SetFlags(log.Ltime | log.Lmicroseconds)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "workload:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 || commands[args[0]] == nil {
		return errors.New("usage: workload serve|call|load|counts|pause FLAGS…")
	}
	return commands[args[0]](ctx, args[1:])
}
