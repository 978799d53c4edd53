package install

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/strvals"
	"sigs.k8s.io/yaml"
)

//go:embed all:chart
var chartFiles embed.FS

// maxValues bounds a file of values, bytes.
const maxValues = 1 << 20

// ErrValues is wrapped by every error that a user's values cause.
var ErrValues = errors.New("values")

// load reads the embedded chart.
func load() (*chart.Chart, error) {
	var files []*archive.BufferedFile
	err := fs.WalkDir(chartFiles, "chart", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := chartFiles.ReadFile(path)
		if err != nil {
			return err
		}
		files = append(files, &archive.BufferedFile{Name: strings.TrimPrefix(path, "chart/"), Data: data})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("install: read the embedded chart: %w", err)
	}
	c, err := loader.LoadFiles(files)
	if err != nil {
		return nil, fmt.Errorf("install: the embedded chart: %w", err)
	}
	return c, nil
}

// ParseValues merges files of values and settings KEY=VALUE, the later over the
// earlier and settings over files, as helm's -f and --set. read reads a file.
func ParseValues(files, settings []string, read func(name string) ([]byte, error)) (map[string]any, error) {
	values := map[string]any{}
	for _, name := range files {
		data, err := read(name)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrValues, err)
		}
		if len(data) > maxValues {
			return nil, fmt.Errorf("%w: %s is larger than %d bytes: is it a file of values?", ErrValues, name, maxValues)
		}
		var v map[string]any
		if err := yaml.UnmarshalStrict(data, &v); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrValues, name, err)
		}
		values = loader.MergeMaps(values, v)
	}
	for _, s := range settings {
		if err := strvals.ParseInto(s, values); err != nil {
			return nil, fmt.Errorf("%w: --set %s: %w; write KEY=VALUE, as in --set ha=true", ErrValues, s, err)
		}
	}
	return values, nil
}
