// Command images builds the images of Seine's programs without a container
// engine and writes each as an OCI archive; with --push it also sends them to
// their registry. Run it from the module's root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/seinemesh/seine/install/image"
)

type options struct {
	repository, tag, out string
	archs                []string
	push                 bool
}

func main() {
	var o options
	flag.StringVar(&o.repository, "repository", "seinemesh", "prefix of the images' names, with a registry's host if need be")
	flag.StringVar(&o.tag, "tag", "dev", "tag of the images, and the version that the programs report")
	flag.StringVar(&o.out, "out", "bin/images", "directory for the archives")
	archs := flag.String("arch", "amd64,arm64", "architectures, separated by commas")
	flag.BoolVar(&o.push, "push", false, "push to the registry as well, with the credentials of docker login")
	flag.Parse()
	o.archs = strings.Split(*archs, ",")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if flag.NArg() > 0 {
		return errors.New("no arguments expected: see --help")
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	for _, p := range image.Programs {
		ref, err := name.NewTag(o.repository + "/" + p.Name + ":" + o.tag)
		if err != nil {
			return err
		}
		var images []v1.Image
		for _, arch := range o.archs {
			img, err := p.Build(ctx, ".", o.tag, arch)
			if err != nil {
				return err
			}
			size, err := layerBytes(img)
			if err != nil {
				return err
			}
			fmt.Printf("%s linux/%s: %.1f MB compressed\n", ref, arch, float64(size)/1e6)
			images = append(images, img)
		}
		index, err := image.Index(images...)
		if err != nil {
			return err
		}
		file := filepath.Join(o.out, p.Name+".tar")
		if err := image.WriteArchive(file, ref.String(), index); err != nil {
			return err
		}
		if o.push {
			if err := remote.WriteIndex(ref, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
				return fmt.Errorf("push %s: %w", ref, err)
			}
		}
	}
	return nil
}

// layerBytes is what a node must fetch.
func layerBytes(img v1.Image) (int64, error) {
	layers, err := img.Layers()
	if err != nil {
		return 0, err
	}
	var total int64
	for _, l := range layers {
		n, err := l.Size()
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}
