// Command tool makes what a test cluster needs besides its binaries: keys and
// kubeconfigs, and archives of images.
package main

import (
	"fmt"
	"os"
)

func main() {
	commands := map[string]func(args []string) error{"pki": pki, "image": writeImage}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: tool pki|image FLAGS ARGUMENTS…")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "tool:", err)
		os.Exit(1)
	}
}
