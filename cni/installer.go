package cni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// kubeconfigName is the file beside the node's network configuration. No
// runtime takes it for one: those end in .conf, .conflist or .json.
const kubeconfigName = Name + ".kubeconfig"

// Installer puts the plugin into a node's chain and keeps it there.
type Installer struct {
	Program     string // this program's file
	BinDir      string // the node's directory of plugins, as mounted here
	ConfDir     string // the node's network configuration, as mounted here
	HostConfDir string // and as the node calls it
	Server      string // the API server's URL
	Account     string // directory with token, ca.crt and namespace, which rotate
	Log         *slog.Logger

	copied fs.FileInfo // the program on the node, as this run wrote or found it
}

const (
	// settle is how long changes may follow each other before they are looked
	// at; it also bounds how often two that disagree rewrite a file.
	settle = 500 * time.Millisecond
	// look is when everything is looked at unasked: a token rotates hours
	// before it expires.
	look = 20 * time.Second
)

// Run installs, mends what others change, and takes everything away when ctx
// ends. What fails meanwhile is logged once and tried again.
func (i *Installer) Run(ctx context.Context) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", i.ConfDir, err)
	}
	defer w.Close()
	if err := w.Add(i.ConfDir); err != nil {
		return fmt.Errorf("watch %s: %w", i.ConfDir, err)
	}
	var said string
	timer := time.NewTimer(0)
	defer timer.Stop()
	pending := true // the timer runs for a change
	for {
		select {
		case <-ctx.Done():
			return i.remove()
		case _, ok := <-w.Events:
			if ok && !pending {
				pending = true
				timer.Reset(settle)
			}
			continue
		case <-w.Errors: // events were lost; look without them
			continue
		case <-timer.C:
		}
		pending = false
		timer.Reset(look)
		switch err := i.ensure(); {
		case err == nil:
			said = ""
		case err.Error() != said:
			said = err.Error()
			i.Log.Warn("the plugin is not in place; trying again", "error", said)
		}
	}
}

// ensure puts in place what is missing: nothing in the chain names what is not there.
func (i *Installer) ensure() error {
	if err := i.program(); err != nil {
		return err
	}
	s, text, err := i.access()
	if err != nil {
		return err
	}
	if err := i.put(filepath.Join(i.ConfDir, kubeconfigName), text, 0o600); err != nil {
		return err
	}
	file, old, mode, err := i.chain()
	if err != nil {
		return err
	}
	text, err = Insert(old, s)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if bytes.Equal(old, text) {
		return nil
	}
	return i.put(file, text, mode)
}

// program copies this program to the node, once for each run and again when the
// copy is gone or is not what was written.
func (i *Installer) program() error {
	file := filepath.Join(i.BinDir, Name)
	if info, err := os.Lstat(file); err == nil && i.copied != nil && os.SameFile(info, i.copied) &&
		info.Size() == i.copied.Size() && info.Mode() == i.copied.Mode() && info.ModTime().Equal(i.copied.ModTime()) {
		return nil
	}
	text, err := os.ReadFile(i.Program)
	if err != nil {
		return fmt.Errorf("read the plugin's program: %w", err)
	}
	if err := i.put(file, text, 0o755); err != nil {
		return err
	}
	i.copied, err = os.Lstat(file)
	return err
}

// access reads the service account anew: the plugin's settings and kubeconfig.
func (i *Installer) access() (Settings, []byte, error) {
	var fail error
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(i.Account, name))
		fail = errors.Join(fail, err)
		return bytes.TrimSpace(b)
	}
	a := Access{Server: i.Server, CA: read("ca.crt"), Token: string(read("token"))}
	namespace := string(read("namespace"))
	if fail != nil {
		return Settings{}, nil, fmt.Errorf("read the service account: %w", fail)
	}
	text, err := a.Kubeconfig()
	if err != nil {
		return Settings{}, nil, err
	}
	if _, err := ParseKubeconfig(text); err != nil {
		return Settings{}, nil, err
	}
	skip := append(slices.Clone(never[:]), namespace)
	slices.Sort(skip)
	return Settings{Kubeconfig: path.Join(i.HostConfDir, kubeconfigName), Skip: slices.Compact(skip)}, text, nil
}

// never are namespaces whose pods have no sidecars (package inject), and which
// a cluster that starts anew needs first. Its own is one of them, too: this
// program's pod renews the token that the plugin would ask with.
var never = [...]string{"kube-node-lease", "kube-public", "kube-system"}

// chain finds the configuration that the runtime uses, the first by name.
func (i *Installer) chain() (file string, text []byte, mode fs.FileMode, err error) {
	entries, err := os.ReadDir(i.ConfDir) // sorted
	if err != nil {
		return "", nil, 0, fmt.Errorf("look for a network configuration: %w", err)
	}
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if e.IsDir() || ext != ".conflist" && ext != ".conf" && ext != ".json" {
			continue
		}
		file = filepath.Join(i.ConfDir, e.Name())
		if ext != ".conflist" {
			return "", nil, 0, fmt.Errorf("%s comes first and is no .conflist: nothing can be added to it", file)
		}
		info, err := e.Info()
		if err != nil {
			return "", nil, 0, fmt.Errorf("look for a network configuration: %w", err)
		}
		// A link leads out of the directory that is mounted here.
		if !info.Mode().IsRegular() || info.Size() > maxChain {
			return "", nil, 0, fmt.Errorf("%s is not an ordinary file of at most %d bytes", file, maxChain)
		}
		text, err = os.ReadFile(file)
		return file, text, info.Mode().Perm(), err
	}
	return "", nil, 0, fmt.Errorf("no network configuration in %s yet: the cluster's network plugin writes it", i.HostConfDir)
}

// Check returns nil if the plugin is in place.
func (i *Installer) Check() error {
	for _, file := range []string{filepath.Join(i.BinDir, Name), filepath.Join(i.ConfDir, kubeconfigName)} {
		if _, err := os.Stat(file); err != nil {
			return err
		}
	}
	file, text, _, err := i.chain()
	if err != nil {
		return err
	}
	c, err := parseChain(text)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if c.types[len(c.types)-1] != Name {
		return fmt.Errorf("%s: its last plugin is %s, not %s", file, c.types[len(c.types)-1], Name)
	}
	return nil
}

// remove takes away all that ensure made, in reverse.
func (i *Installer) remove() error {
	entries, err := os.ReadDir(i.ConfDir)
	fail := err
	for _, e := range entries {
		if !e.Type().IsRegular() || filepath.Ext(e.Name()) != ".conflist" {
			continue
		}
		fail = errors.Join(fail, i.without(filepath.Join(i.ConfDir, e.Name())))
	}
	for _, file := range []string{filepath.Join(i.ConfDir, kubeconfigName), filepath.Join(i.BinDir, Name)} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			fail = errors.Join(fail, err)
		}
	}
	return fail
}

// without takes the plugin out of one file. One that cannot be read as a list
// is somebody else's trouble, and was not written here.
func (i *Installer) without(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	text, err := Remove(old)
	if err != nil || bytes.Equal(old, text) {
		return nil
	}
	return i.put(file, text, info.Mode().Perm())
}

// put makes file hold text with mode, in one step for whoever reads it.
func (i *Installer) put(file string, text []byte, mode fs.FileMode) error {
	if info, err := os.Lstat(file); err == nil && info.Mode() == mode {
		if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, text) {
			return nil
		}
	}
	// The name begins with a dot and ends in no configuration's suffix.
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+strings.ReplaceAll(filepath.Base(file), ".", "-")+"-")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	defer os.Remove(tmp.Name()) // gone if renamed
	_, err = tmp.Write(text)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	i.Log.Info("written", "file", file)
	return nil
}
