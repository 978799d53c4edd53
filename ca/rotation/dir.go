package rotation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/seinemesh/seine/ca"
)

// Dir is a Store in the folder that ca.Open has made (Options.Dir/ca). While a
// rotation runs, one file has all of it, replaced as a whole; after it the folder is
// as ca.Open makes one.
type Dir struct {
	Path string

	mu sync.Mutex
}

// fileRotation rules over the other files as long as it is there.
const fileRotation = "rotation.json"

// dirRecord is Record as fileRotation has it.
type dirRecord struct {
	State    State        `json:"state"`
	Material ca.Material  `json:"material"`
	Next     *ca.Material `json:"next,omitempty"`
}

// Load reads the folder.
func (d *Dir) Load(context.Context) (*Record, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.load()
}

func (d *Dir) load() (*Record, error) {
	data, err := os.ReadFile(filepath.Join(d.Path, fileRotation))
	if err == nil {
		var kept dirRecord
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&kept); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrRecord, filepath.Join(d.Path, fileRotation), err)
		}
		return &Record{Material: kept.Material, Next: kept.Next, State: kept.State, Version: digest(data)}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("rotation: %w", err)
	}
	m, err := ca.ReadMaterial(d.Path)
	if err != nil {
		return nil, err
	}
	return &Record{Material: *m, Version: digest(append(append([]byte(nil), m.Roots...), m.Cert...))}, nil
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// Save writes the folder.
func (d *Dir) Save(_ context.Context, r *Record) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	now, err := d.load()
	if err != nil {
		return err
	}
	if now.Version != r.Version {
		return ErrConflict
	}
	data, err := json.Marshal(dirRecord{State: r.State, Material: r.Material, Next: r.Next})
	if err != nil {
		return fmt.Errorf("rotation: %w", err)
	}
	if err := d.replace(fileRotation, data); err != nil {
		return err
	}
	if r.State.Step != Stable {
		return nil
	}
	// The one file rules until it is gone, so that the others may change one by one.
	for _, f := range []struct {
		name string
		data []byte
	}{{ca.FileRoot, r.Material.Roots}, {ca.FileCert, r.Material.Cert}, {ca.FileKey, r.Material.Key}, {ca.FileChain, r.Material.Chain}} {
		if len(f.data) == 0 {
			if err := os.Remove(filepath.Join(d.Path, f.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("rotation: %w", err)
			}
			continue
		}
		if err := d.replace(f.name, f.data); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(d.Path, fileRotation)); err != nil {
		return fmt.Errorf("rotation: %w", err)
	}
	return nil
}

// replace writes a file of mode 0600, whole or not at all.
func (d *Dir) replace(name string, data []byte) error {
	f, err := os.CreateTemp(d.Path, ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("rotation: %w", err)
	}
	defer os.Remove(f.Name()) // gone already if all went well
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("rotation: write %s: %w", name, err)
	}
	if err := os.Rename(f.Name(), filepath.Join(d.Path, name)); err != nil {
		return fmt.Errorf("rotation: %w", err)
	}
	folder, err := os.Open(d.Path)
	if err != nil {
		return fmt.Errorf("rotation: %w", err)
	}
	return errors.Join(folder.Sync(), folder.Close())
}
