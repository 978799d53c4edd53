package config

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/seinemesh/seine/mesh"
)

// Decoded is what Build keeps of one resource of a cluster, so that the next Build
// decodes only what has changed since. The zero value holds nothing. It belongs to
// one Resource at a time, and to one Build.
//
// Kept are the kinds that there are most of, and of them only what Build never
// writes to after it was decoded; the others are decoded each time. A ServiceEntry is
// one of these: it is given addresses once all are known.
type Decoded struct {
	data   []byte  // that it is of
	object *object // without its tree
	under  string  // what it was decoded under; "": only the object is known

	services []*mesh.Service
	routes   []*mesh.VirtualService
	rule     *rawRule // as decoded
	findings Findings
}

// keptFindings bounds the findings that are kept of one resource: where there are
// more, not all may have been listed.
const keptFindings = 100

// readAgain is read for a cluster's resource, but one that was read before.
func (b *builder) readAgain(r Resource) []*object {
	d := r.Decoded
	if d == nil {
		return b.read(File{Data: r.Data})
	}
	if d.object == nil || !bytes.Equal(d.data, r.Data) {
		*d = Decoded{}
		said := len(b.result.Findings)
		out := b.read(File{Data: r.Data})
		if len(out) != 1 || out[0].bad || len(b.result.Findings) > said || out[0].ref.File != "" {
			return out
		}
		bare := *out[0]
		bare.root, bare.data, bare.kept = nil, r.Data, d
		d.data, d.object = r.Data, &bare
		out[0].kept = d
		return out
	}
	o := *d.object
	return []*object{&o}
}

// under is all that decoding one resource depends on beside the resource.
func (b *builder) under() string {
	s := b.settings
	s.Prefixes = nil
	meshConfig := ""
	if b.opt.MeshConfig != nil {
		meshConfig = string(b.opt.MeshConfig.Data)
	}
	return fmt.Sprintf("%+v %+v %s %v %s", s, b.exports, b.opt.Namespace, b.opt.Cluster, meshConfig)
}

// decoded is how much there was before a resource was decoded.
type decoded struct {
	services, routes, rules, findings int
	others                            string // of what is not kept
}

func (b *builder) mark() decoded {
	p := &b.parts
	return decoded{
		len(p.Services), len(p.VirtualServices), len(b.rules), len(b.result.Findings),
		fmt.Sprint(len(p.Workloads), len(p.GatewayRoutes), len(p.DestinationRules), len(p.PeerAuth), len(p.RateLimits), len(p.Sidecars), len(p.Telemetries),
			len(b.paper), len(b.publishes), len(b.roots), len(b.delegates), len(b.namedTargets), len(b.gatewayRoutes), len(b.result.Local)),
	}
}

// keep takes what came of o since mark, if o is of a kind that is kept.
func (d *Decoded) keep(b *builder, o *object, mark decoded, under string) {
	if d == nil {
		return
	}
	d.under, d.services, d.routes, d.rule, d.findings = "", nil, nil, nil, nil
	switch o.group + "/" + o.ref.Kind {
	case "/Service", "networking.istio.io/VirtualService", "networking.istio.io/DestinationRule":
	default:
		return
	}
	now := b.mark()
	if now.others != mark.others || now.findings-mark.findings > keptFindings || now.rules-mark.rules > 1 {
		return
	}
	d.services = slices.Clone(b.parts.Services[mark.services:])
	d.routes = slices.Clone(b.parts.VirtualServices[mark.routes:])
	if now.rules > mark.rules {
		d.rule = b.rules[mark.rules].clone()
	}
	d.findings = slices.Clone(b.result.Findings[mark.findings:])
	d.object.subsets = o.subsets
	d.under = under
}

// give adds to b what was kept of o, if it would be decoded to the same.
func (d *Decoded) give(b *builder, o *object, under string) bool {
	if d == nil || d.under != under {
		return false
	}
	b.parts.Services = append(b.parts.Services, d.services...)
	b.parts.VirtualServices = append(b.parts.VirtualServices, d.routes...)
	if d.rule != nil {
		b.rules = append(b.rules, d.rule.clone())
	}
	for _, f := range d.findings {
		b.report(f)
	}
	return true
}

// clone is r with a rule of its own, which merging writes to.
func (r *rawRule) clone() *rawRule {
	out, rule := *r, *r.rule
	rule.Subsets, out.subsets = slices.Clone(rule.Subsets), slices.Clone(r.subsets)
	rule.Unsupported = slices.Clone(rule.Unsupported)
	out.rule = &rule
	return &out
}
