package stat

import (
	"cmp"
	"io"
	"slices"
	"strings"

	"github.com/seinemesh/seine/telemetry"
)

// WriteEdges renders who calls whom for people, by source: without Wide the
// identities in short, and opaque TCP and the service left out.
func (t *Table) WriteEdges(w io.Writer, o TextOptions) error {
	var b strings.Builder
	switch {
	case len(t.Edges) == 0:
		b.WriteString("no traffic has been seen yet\n")
	case o.Wide:
		t.writeEdges(&b, o)
	default:
		rows := [][]cell{heading([]string{"SRC", "DST", "SRC_NS", "DST_NS", "SECURED", "RPS", "SUCCESS", "P50", "P99", "CLIENT", "SERVER"})}
		for _, e := range bySource(t.Edges) {
			signals := e.cells()
			rows = append(rows, []cell{
				name(e.Source.Workload), name(e.Destination.Workload), name(e.Source.Namespace), name(e.Destination.Namespace), mtls(e.MTLS),
				signals[0], signals[1], signals[2], signals[4], identity(e.Source.Identity), identity(e.Destination.Identity),
			})
		}
		align(&b, rows, o)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func bySource(edges []Edge) []Edge {
	edges = slices.Clone(edges)
	slices.SortStableFunc(edges, func(a, b Edge) int {
		return cmp.Or(cmp.Compare(a.Source.Namespace, b.Source.Namespace), cmp.Compare(a.Source.Workload, b.Source.Workload),
			cmp.Compare(a.Destination.Namespace, b.Destination.Namespace), cmp.Compare(a.Destination.Workload, b.Destination.Workload))
	})
	return edges
}

func name(s string) cell {
	if s == telemetry.Unknown {
		s = ""
	}
	return cell{text: orDash(s)}
}

func identity(id string) cell {
	if id == "" {
		return cell{text: "-"}
	}
	return cell{text: short([]string{id})}
}
