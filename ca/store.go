package ca

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// maxFile bounds what is read of one file, in bytes.
const maxFile = 1 << 20

// ErrPermissions refuses a secret that others may read.
var ErrPermissions = errors.New("ca: secret readable by others")

// open loads the brought or the generated authority; the latter is made if Dir/ca
// is not there.
func open(o Options) (*keys, error) {
	if o.Material != nil {
		return o.Material.parse(o.Source)
	}
	if o.Brought != "" {
		// A mounted Kubernetes secret has its mode from the cluster: not ours to refuse.
		return load(o.Brought, false)
	}
	if o.Dir == "" {
		return nil, errors.New("ca: no state directory")
	}
	if err := privateDir(o.Dir); err != nil {
		return nil, err
	}
	dir := filepath.Join(o.Dir, "ca")
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := generate(o, dir); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	return load(dir, true)
}

// privateDir makes dir with mode 0700, or checks that only its owner can enter it.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("ca: state directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("ca: state directory: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%w: directory %s has mode %04o: chmod 700 it", ErrPermissions, dir, info.Mode().Perm())
	}
	return nil
}

// generate makes a root in a directory beside dir and renames it: whoever looks
// sees a whole authority or none, and of two that start at once one wins and the
// other loads the winner's.
func generate(o Options, dir string) error {
	m, err := Generate(o.TrustDomain, o.RootTTL, o.Now())
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".ca-") // mode 0700
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	defer os.RemoveAll(tmp) // gone already if the rename worked
	for name, data := range map[string][]byte{FileKey: m.Key, FileCert: m.Cert, FileRoot: m.Roots} {
		if err := writeSecret(filepath.Join(tmp, name), data); err != nil {
			return err
		}
	}
	if err := syncDir(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		if _, there := os.Stat(filepath.Join(dir, FileRoot)); there == nil {
			return nil // another one was first
		}
		return fmt.Errorf("ca: %w", err)
	}
	return syncDir(filepath.Dir(dir))
}

// writeSecret makes a new file of mode 0600 and waits until it is on disk.
func writeSecret(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("ca: %s: %w", dir, err)
	}
	return nil
}

// load reads a directory in Istio's layout and checks that it is one authority.
func load(dir string, private bool) (*keys, error) {
	if private {
		if err := checkSecret(filepath.Join(dir, FileKey)); err != nil {
			return nil, err
		}
	}
	m, err := ReadMaterial(dir)
	if err != nil {
		return nil, err
	}
	return m.parse(dir)
}

// ReadMaterial reads a directory in Istio's layout. Nothing is checked yet.
func ReadMaterial(dir string) (*Material, error) {
	m := &Material{}
	for name, to := range map[string]*[]byte{FileRoot: &m.Roots, FileCert: &m.Cert, FileKey: &m.Key, FileChain: &m.Chain} {
		data, err := readFile(filepath.Join(dir, name))
		if err != nil && !(name == FileChain && errors.Is(err, fs.ErrNotExist)) {
			return nil, err
		}
		*to = data
	}
	return m, nil
}

// checkSecret refuses a secret file that anybody but its owner may read.
func checkSecret(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("ca: %s is not a regular file", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%w: %s has mode %04o: chmod 600 it", ErrPermissions, path, info.Mode().Perm())
	}
	return nil
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("ca: %s is larger than %d bytes", path, maxFile)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	return data, nil
}
