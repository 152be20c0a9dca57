package cli

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"k8s.io/cli-runtime/pkg/printers"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

// printTraffic prints a line for each kind of traffic of each link.
func printTraffic(out io.Writer, devices []v1alpha1.EdgeDevice, withNamespace, noHeaders bool) error {
	w := printers.GetNewTabWriter(out)
	if !noHeaders {
		if withNamespace {
			fmt.Fprint(w, "NAMESPACE\t")
		}
		fmt.Fprintln(w, "NAME\tLINK\tKIND\tIN\tOUT\tTOTAL-IN\tTOTAL-OUT")
	}
	for i := range devices {
		d := &devices[i]
		for _, row := range trafficRows(&d.Status) {
			if withNamespace {
				fmt.Fprintf(w, "%s\t", d.Namespace)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", d.Name, row.link, row.kind, row.present, row.total)
		}
	}
	return w.Flush()
}

// trafficRow is one kind of traffic of a link.
type trafficRow struct {
	link, kind     string
	present, total inOut
}

// inOut prints as two columns.
type inOut struct {
	known   bool
	in, out int64
}

func (n inOut) String() string {
	if !n.known {
		return unknown + "\t" + unknown
	}
	return bytesText(n.in) + "\t" + bytesText(n.out)
}

// trafficRows are in the order in which the server lists them, the present link first.
func trafficRows(s *v1alpha1.EdgeDeviceStatus) (rows []trafficRow) {
	present := ""
	if s.Link != nil {
		present = s.Link.Method
		for _, t := range s.Link.Traffic {
			rows = append(rows, trafficRow{link: present, kind: t.Kind, present: inOut{true, t.BytesIn, t.BytesOut}})
		}
	}
	for _, t := range s.Traffic {
		i := slices.IndexFunc(rows, func(r trafficRow) bool { return r.link == t.Link && r.kind == t.Kind })
		if i < 0 {
			rows = append(rows, trafficRow{link: t.Link, kind: t.Kind, present: inOut{known: true}})
			i = len(rows) - 1
		}
		rows[i].total = inOut{true, t.BytesIn, t.BytesOut}
	}
	slices.SortStableFunc(rows, func(a, b trafficRow) int {
		if (a.link == present) != (b.link == present) {
			if a.link == present {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.link, b.link)
	})
	return rows
}
