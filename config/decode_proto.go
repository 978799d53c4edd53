package config

import (
	"encoding/base64"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// fieldSet is a set of field patterns, without indexes and map keys: "http.match.uri".
// One that ends in ".**" holds everything below it too.
type fieldSet struct {
	exact map[string]bool
	deep  map[string]bool
}

func fields(patterns ...string) *fieldSet {
	s := &fieldSet{map[string]bool{}, map[string]bool{}}
	for _, p := range patterns {
		p, deep := strings.CutSuffix(p, ".**")
		if deep {
			s.deep[p] = true
		}
		for {
			s.exact[p] = true
			i := strings.LastIndexByte(p, '.')
			if i < 0 {
				break
			}
			p = p[:i]
		}
	}
	return s
}

// legacy are fields that Istio has removed since v1alpha3 of 2019, by message.
var legacyFields = map[protoreflect.FullName]map[string]string{
	"istio.networking.v1alpha3.HTTPRoute": {
		"appendHeaders":         "headers.request.add",
		"appendRequestHeaders":  "headers.request.add",
		"removeRequestHeaders":  "headers.request.remove",
		"appendResponseHeaders": "headers.response.add",
		"removeResponseHeaders": "headers.response.remove",
		"websocketUpgrade":      "", // always on since Istio 1.0
	},
	"istio.networking.v1alpha3.HTTPRouteDestination": {
		"appendRequestHeaders":  "headers.request.add",
		"removeRequestHeaders":  "headers.request.remove",
		"appendResponseHeaders": "headers.response.add",
		"removeResponseHeaders": "headers.response.remove",
	},
	"istio.networking.v1alpha3.HTTPFaultInjection.Abort": {"percent": "percentage.value"},
}

func join(pattern, name string) string {
	if pattern == "" {
		return name
	}
	return pattern + "." + name
}

// message decodes n into m. pattern is path without indexes and keys, relative
// to the spec; below is true within a part that is unsupported or supported as
// a whole.
func (d *decoder) message(n *yaml.Node, m protoreflect.Message, path, pattern string, below bool, depth int) {
	if !d.visit(n, path, depth) || isNull(n) {
		return
	}
	if d.wellKnown(n, m, path, depth) {
		return
	}
	desc := m.Descriptor()
	d.mapping(n, path, func(e entry) {
		fd := desc.Fields().ByJSONName(e.key)
		if fd == nil {
			fd = desc.Fields().ByName(protoreflect.Name(e.key))
		}
		if fd == nil {
			if d.legacyField(e, m, path, depth) {
				return
			}
			var names []string
			for i := range desc.Fields().Len() {
				names = append(names, desc.Fields().Get(i).JSONName())
			}
			d.unknown(path, e, names)
			return
		}
		if isNull(e.value) {
			return
		}
		here, at := join(pattern, fd.JSONName()), sub(path, fd.JSONName())
		if one := fd.ContainingOneof(); one != nil && !one.IsSynthetic() {
			if other := m.WhichOneof(one); other != nil {
				d.fail(codeType, at, e.keyNode, "excludes %s, which is set too: keep one of them", sub(path, other.JSONName()))
				return
			}
		}
		if m.Has(fd) {
			d.fail(codeDuplicateKey, at, e.keyNode, "is written twice, as %s and as %s: remove one", fd.JSONName(), fd.Name())
			return
		}
		inside := below
		if !below && d.known != nil {
			if !d.known.exact[here] {
				d.unsupportedField(at, here, e)
				inside = true
			} else if d.known.deep[here] {
				inside = true
			}
		}
		d.protoField(e.value, m, fd, at, here, inside, depth)
	})
}

// unsupportedField reports a field that has no effect, each element of a list
// for itself; those that ask for something are remembered.
func (d *decoder) unsupportedField(path, pattern string, e entry) {
	l := lackOf(d.obj.ref.Kind, pattern)
	paths := []string{path}
	if e.value.Kind == yaml.SequenceNode && len(e.value.Content) > 0 && resolve(e.value.Content[0]).Kind == yaml.MappingNode {
		paths = paths[:0]
		for i := range e.value.Content {
			paths = append(paths, item(path, i))
		}
	}
	for _, p := range paths {
		if d.strict != "" {
			d.fail(codeInvalid, p, nil, "%s", d.strict)
			continue
		}
		d.b.note(d.obj, codeUnsupported, l.severity, p, "%s", l.advice)
		if l.severity > Info {
			d.unsupported = append(d.unsupported, p)
		}
	}
}

func (d *decoder) protoField(n *yaml.Node, m protoreflect.Message, fd protoreflect.FieldDescriptor, path, pattern string, below bool, depth int) {
	switch {
	case fd.IsMap():
		out := m.Mutable(fd).Map()
		d.mapping(n, path, func(e entry) {
			at := sub(path, e.key)
			k, ok := d.scalar(e.keyNode, fd.MapKey(), at, true)
			if !ok {
				return
			}
			if isNull(e.value) {
				d.fail(codeType, at, e.keyNode, "has no value: write one, or {} if the empty one is meant")
				return
			}
			v := out.NewValue()
			if fd.MapValue().Message() != nil {
				d.message(e.value, v.Message(), at, pattern, below, depth+1)
			} else if v, ok = d.scalar(e.value, fd.MapValue(), at, false); !ok {
				return
			}
			out.Set(k.MapKey(), v)
		})
	case fd.IsList():
		out := m.Mutable(fd).List()
		d.sequence(n, path, func(i int, c *yaml.Node) {
			at := item(path, i)
			if isNull(c) {
				d.fail(codeType, at, c, "is empty: remove it or fill it in")
				return
			}
			v := out.NewElement()
			ok := true
			if fd.Message() != nil {
				d.message(c, v.Message(), at, pattern, below, depth+1)
			} else {
				v, ok = d.scalar(c, fd, at, false)
			}
			if ok {
				out.Append(v)
			}
		})
	case fd.Message() != nil:
		d.message(n, m.Mutable(fd).Message(), path, pattern, below, depth+1)
	default:
		if v, ok := d.scalar(n, fd, path, false); ok {
			m.Set(fd, v)
		}
	}
}

func (d *decoder) scalar(n *yaml.Node, fd protoreflect.FieldDescriptor, path string, key bool) (v protoreflect.Value, ok bool) {
	if !d.visit(n, path, 0) {
		return v, false
	}
	switch fd.Kind() {
	case protoreflect.StringKind:
		if key {
			return protoreflect.ValueOfString(n.Value), true
		}
		s, ok := d.str(n, path)
		return protoreflect.ValueOfString(s), ok
	case protoreflect.BoolKind:
		b, ok := d.boolean(n, path)
		return protoreflect.ValueOfBool(b), ok
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		i, _, ok := d.integer(n, path, 32, false)
		return protoreflect.ValueOfInt32(int32(i)), ok
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		i, _, ok := d.integer(n, path, 64, false)
		return protoreflect.ValueOfInt64(i), ok
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		_, u, ok := d.integer(n, path, 32, true)
		return protoreflect.ValueOfUint32(uint32(u)), ok
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		_, u, ok := d.integer(n, path, 64, true)
		return protoreflect.ValueOfUint64(u), ok
	case protoreflect.FloatKind:
		f, ok := d.float(n, path)
		return protoreflect.ValueOfFloat32(float32(f)), ok
	case protoreflect.DoubleKind:
		f, ok := d.float(n, path)
		return protoreflect.ValueOfFloat64(f), ok
	case protoreflect.BytesKind:
		s, ok := d.str(n, path)
		raw, err := base64.StdEncoding.DecodeString(s)
		if ok && err != nil {
			d.fail(codeType, path, n, "must be base64: %v", err)
			ok = false
		}
		return protoreflect.ValueOfBytes(raw), ok
	case protoreflect.EnumKind:
		return d.enum(n, fd.Enum(), path)
	}
	d.fail(codeType, path, n, "cannot be set from a file")
	return v, false
}

func (d *decoder) enum(n *yaml.Node, desc protoreflect.EnumDescriptor, path string) (v protoreflect.Value, ok bool) {
	var names []string
	for i := range desc.Values().Len() {
		names = append(names, string(desc.Values().Get(i).Name()))
	}
	if n.Kind == yaml.ScalarNode {
		if e := desc.Values().ByName(protoreflect.Name(n.Value)); e != nil {
			return protoreflect.ValueOfEnum(e.Number()), true
		}
	}
	d.fail(codeType, path, n, "must be one of %s, not %s%s", strings.Join(names, ", "), describe(n), didYouMean(n.Value, names))
	return v, false
}

// wellKnown decodes the messages that JSON writes in a form of their own.
func (d *decoder) wellKnown(n *yaml.Node, m protoreflect.Message, path string, depth int) bool {
	name := m.Descriptor().FullName()
	if !strings.HasPrefix(string(name), "google.protobuf.") {
		return false
	}
	switch name {
	case "google.protobuf.Duration":
		v, err := time.ParseDuration(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil {
			hint := ""
			if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!int" {
				hint = " (" + n.Value + "s?)"
			}
			d.fail(codeDuration, path, n, "%s is not a duration: write a number with its unit, such as 500ms, 10s or 1h30m%s", describe(n), hint)
			return true
		}
		if v < 0 {
			d.fail(codeDuration, path, n, "a duration must not be negative (it is %s)", n.Value)
			return true
		}
		proto.Merge(m.Interface(), durationpb.New(v))
	case "google.protobuf.Timestamp":
		v, err := time.Parse(time.RFC3339Nano, n.Value)
		if err != nil {
			d.fail(codeType, path, n, "%s is not a time such as 2006-01-02T15:04:05Z", describe(n))
			return true
		}
		proto.Merge(m.Interface(), timestamppb.New(v))
	case "google.protobuf.Struct":
		if n.Kind != yaml.MappingNode {
			d.fail(codeType, path, n, "must be a mapping, not %s", describe(n))
			return true
		}
		if fields, ok := d.any(n, path, depth).(map[string]any); ok {
			if v, err := structpb.NewStruct(fields); err == nil {
				proto.Merge(m.Interface(), v)
			}
		}
	case "google.protobuf.Value", "google.protobuf.ListValue", "google.protobuf.Any":
		d.any(n, path, depth)
	default: // the wrappers
		fd := m.Descriptor().Fields().ByName("value")
		if fd == nil {
			return false
		}
		if v, ok := d.scalar(n, fd, path, false); ok {
			m.Set(fd, v)
		}
	}
	return true
}

// legacyField takes a field that only v1alpha3 of 2019 had, at its place today.
func (d *decoder) legacyField(e entry, m protoreflect.Message, path string, depth int) bool {
	if d.obj.version != "v1alpha3" {
		return false
	}
	place, ok := legacyFields[m.Descriptor().FullName()][camel(e.key)]
	if !ok {
		return false
	}
	if place == "" {
		return true
	}
	at := sub(path, e.key)
	d.b.note(d.obj, codeDeprecated, Info, at, "is a field of 2019 that Istio has removed: write it as %s", place)
	steps := strings.Split(place, ".")
	for _, s := range steps[:len(steps)-1] {
		m = m.Mutable(m.Descriptor().Fields().ByName(protoreflect.Name(s))).Message()
	}
	fd := m.Descriptor().Fields().ByName(protoreflect.Name(steps[len(steps)-1]))
	d.protoField(e.value, m, fd, at, "", true, depth+1)
	return true
}
