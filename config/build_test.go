package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/seinemesh/seine/mesh"
)

var update = flag.Bool("update", false, "write the golden files")

// folder reads testdata/NAME.
func folder(t testing.TB, name string) []File {
	t.Helper()
	var files []File
	err := filepath.WalkDir(filepath.Join("testdata", name), func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(p) == ".golden" {
			return err
		}
		data, err := os.ReadFile(p)
		files = append(files, File{Name: filepath.ToSlash(strings.TrimPrefix(p, "testdata"+string(filepath.Separator))), Data: data})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (run with -update to accept):\n%s", path, got)
	}
}

// dump writes a Result in a form that is good to read and to compare.
func dump(r *Result) []byte {
	var b bytes.Buffer
	message := func(m proto.Message) string {
		raw, _ := protojson.Marshal(m)
		var compact bytes.Buffer
		_ = json.Compact(&compact, raw) // protojson's spaces are random
		return compact.String()
	}
	ref := func(r mesh.Ref) string {
		return fmt.Sprintf("%s %s/%s %s:%d", r.Kind, r.Namespace, r.Name, r.File, r.Line)
	}
	s := r.Snapshot
	fmt.Fprintf(&b, "settings %+v\n", s.Settings)
	for _, x := range s.Services {
		fmt.Fprintf(&b, "service %s addresses=%v cidrs=%v selector=%v endpoints=%v %s external=%v headless=%v exportTo=%v sans=%v (%s)\n", x.Host, x.Addresses, x.CIDRs, x.Selector, x.Endpoints, x.Resolution, x.External, x.Headless, x.ExportTo, x.SANs, ref(x.Ref))
		for _, p := range x.Ports {
			fmt.Fprintf(&b, "  port %d %q target=%d%s %s\n", p.Number, p.Name, p.Target, p.TargetName, p.Protocol)
		}
	}
	for _, x := range s.Workloads {
		fmt.Fprintf(&b, "workload %s app=%s labels=%v sa=%s addresses=%v ports=%v sidecar=%v unhealthy=%v (%s)\n", x.Key(), x.App, x.Labels, x.ServiceAccount, x.Addresses, x.Ports, x.Sidecar, x.Unhealthy, ref(x.Ref))
	}
	for _, x := range s.VirtualServices {
		fmt.Fprintf(&b, "virtualservice hosts=%v gateways=%v exportTo=%v unsupported=%v (%s)\n", x.Hosts, x.Gateways, x.ExportTo, x.Unsupported, ref(x.Ref))
		for _, h := range x.HTTP {
			fmt.Fprintf(&b, "  http %s\n", message(h))
		}
		for _, h := range x.TCP {
			fmt.Fprintf(&b, "  tcp %s\n", message(h))
		}
		for _, h := range x.TLS {
			fmt.Fprintf(&b, "  tls %s\n", message(h))
		}
	}
	for _, x := range s.GatewayRoutes {
		fmt.Fprintf(&b, "gatewayroute parents=%v (%s)\n", x.Parents, ref(x.Ref))
		for _, h := range x.Rules {
			fmt.Fprintf(&b, "  rule %s\n", message(h))
		}
	}
	for _, x := range s.DestinationRules {
		fmt.Fprintf(&b, "destinationrule host=%s exportTo=%v selector=%v policy=%s unsupported=%v (%s)\n", x.Host, x.ExportTo, x.WorkloadSelector, message(x.Policy), partly(x.Unsupported), ref(x.Ref))
		for _, p := range sortedPorts(x.PortPolicies) {
			fmt.Fprintf(&b, "  port %d %s\n", p, message(x.PortPolicies[p]))
		}
		for _, s := range x.Subsets {
			fmt.Fprintf(&b, "  subset %s %v %s\n", s.Name, s.Labels, message(s.Policy))
			for _, p := range sortedPorts(s.PortPolicies) {
				fmt.Fprintf(&b, "    port %d %s\n", p, message(s.PortPolicies[p]))
			}
		}
	}
	for _, x := range s.PeerAuth {
		fmt.Fprintf(&b, "peerauth selector=%v mode=%s ports=%v mesh=%v services=%v (%s)\n", x.Selector, x.Mode, x.Ports, x.MeshWide, x.Services, ref(x.Ref))
	}
	for _, x := range r.Local {
		fmt.Fprintf(&b, "local %s labels=%v command=%q replicas=%d sa=%s ports=%v env=%v dir=%s\n", ref(x.Ref), x.Labels, x.Command, x.Replicas, x.ServiceAccount, x.Ports, x.Env, x.Dir())
	}
	for _, x := range r.Publish {
		fmt.Fprintf(&b, "publish %d to %s:%d (%s)\n", x.Port, x.Host, x.To, ref(x.Ref))
	}
	for _, x := range r.Routes {
		fmt.Fprintf(&b, "status %s generation=%d\n", ref(x.Ref), x.Generation)
		for _, p := range x.Parents {
			fmt.Fprintf(&b, "  parent %s\n", p.Parent.Name)
			for _, c := range p.Conditions {
				fmt.Fprintf(&b, "    %s=%v %s %s\n", c.Type, c.Status, c.Reason, c.Message)
			}
		}
	}
	b.Write(list(r.Findings))
	return b.Bytes()
}

func list(fs Findings) []byte {
	var b bytes.Buffer
	for i := range fs {
		refused := ""
		if fs[i].Refused {
			refused = " refused"
		}
		fmt.Fprintf(&b, "%s%s\n", fs[i].String(), refused)
	}
	return b.Bytes()
}

// TestFolders builds each folder of testdata, and the order of what comes out
// must be the same each time.
func TestFolders(t *testing.T) {
	entries, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !e.IsDir() || e.Name() == "fuzz" {
			continue
		}
		t.Run(e.Name(), func(t *testing.T) {
			opt := Options{LocalInstances: true}
			files := folder(t, e.Name())
			for i, f := range files {
				if filepath.Base(f.Name) == "meshconfig.yaml" {
					opt.MeshConfig = &f
					files = append(files[:i:i], files[i+1:]...)
					break
				}
			}
			got := dump(Build(files, opt))
			for range 3 {
				if again := dump(Build(files, opt)); !bytes.Equal(got, again) {
					t.Fatalf("two builds differ:\n%s\n%s", got, again)
				}
			}
			golden(t, e.Name(), got)
		})
	}
}

func partly(list []mesh.Unsupported) []string {
	out := make([]string, 0, len(list))
	for _, u := range list {
		text := u.Path
		if u.Subset != "" {
			text += " (subset " + u.Subset + ")"
		}
		if u.Port != 0 {
			text += fmt.Sprintf(" (port %d)", u.Port)
		}
		out = append(out, text)
	}
	return out
}
