package image

import (
	"bytes"
	"debug/buildinfo"
	"fmt"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// SBOM returns the CycloneDX document, as JSON, of what a Go program was built
// from, by what the linker wrote into it. It has no time and no serial number:
// the same program has the same document.
func SBOM(program []byte, name, version string) ([]byte, error) {
	info, err := buildinfo.Read(bytes.NewReader(program))
	if err != nil {
		return nil, fmt.Errorf("sbom of %s: %w", name, err)
	}
	var out bytes.Buffer
	if err := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).Encode(document(info, name, version)); err != nil {
		return nil, fmt.Errorf("sbom of %s: %w", name, err)
	}
	return out.Bytes(), nil
}

// document lists the modules in info, a replaced one as what replaced it.
func document(info *buildinfo.BuildInfo, name, version string) *cdx.BOM {
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Component: &cdx.Component{
		BOMRef: info.Main.Path, Type: cdx.ComponentTypeApplication,
		Name: name, Version: version, PackageURL: "pkg:golang/" + info.Path + "@" + version,
	}}
	library := func(path, version string) cdx.Component {
		url := "pkg:golang/" + path + "@" + version
		return cdx.Component{BOMRef: url, Type: cdx.ComponentTypeLibrary, Name: path, Version: version, PackageURL: url}
	}
	components := []cdx.Component{library("std", info.GoVersion)}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		components = append(components, library(m.Path, m.Version))
	}
	bom.Components = &components
	return bom
}
