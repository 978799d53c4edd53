package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A Program is one of Seine's, with how its image runs it.
type Program struct {
	Name string // of the image, the command and its package below cmd
	User string // uid:gid
	// Public is whether it calls public names by TLS (keys of token issuers,
	// origination), and needs the roots that the world trusts.
	Public bool
}

// Programs are those that run in a cluster. The uid of the sidecar is the one
// that the redirect leaves alone.
var Programs = []Program{
	{Name: "seined", User: "65532:65532", Public: true},
	{Name: "seine-proxy", User: "1337:1337", Public: true},
	{Name: "seine-cni", User: "0:0"}, // writes to the node's directories
}

// Build compiles the program out of the module in dir for an architecture and
// returns its image: one layer with the program, one with its SBOM and roots.
func (p Program) Build(ctx context.Context, dir, version, arch string) (v1.Image, error) {
	program, err := p.compile(ctx, dir, version, arch)
	if err != nil {
		return nil, err
	}
	sbom, err := SBOM(program, p.Name, version)
	if err != nil {
		return nil, err
	}
	top, err := Layer(File{Path: "/" + p.Name, Mode: 0o755, Data: program})
	if err != nil {
		return nil, err
	}
	rest := []File{{Path: "/usr/share/sbom/" + p.Name + ".cdx.json", Mode: 0o644, Data: sbom}}
	if p.Public {
		roots, err := Roots()
		if err != nil {
			return nil, err
		}
		rest = append(rest, File{Path: rootsFile, Mode: 0o644, Data: roots})
	}
	below, err := Layer(rest...)
	if err != nil {
		return nil, err
	}
	return New(Config{
		Arch: arch, Entrypoint: []string{"/" + p.Name}, User: p.User,
		Labels: map[string]string{
			"org.opencontainers.image.title":    p.Name,
			"org.opencontainers.image.version":  version,
			"org.opencontainers.image.source":   "https://github.com/seinemesh/seine",
			"org.opencontainers.image.licenses": "Apache-2.0",
		},
	}, below, top)
}

// compile returns the linked program, free of everything that the machine or
// the moment would put into it.
func (p Program) compile(ctx context.Context, dir, version, arch string) ([]byte, error) {
	out, err := os.MkdirTemp("", "seine-image-")
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", p.Name, err)
	}
	defer os.RemoveAll(out)
	file := filepath.Join(out, p.Name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags", "grpcnotrace",
		"-ldflags", "-s -w -X github.com/seinemesh/seine/version.Version="+version, "-o", file, "./cmd/"+p.Name)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	if msg, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build %s for %s: %w\n%s", p.Name, arch, err, msg)
	}
	return os.ReadFile(file)
}
