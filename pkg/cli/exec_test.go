package cli

import (
	"encoding/json"
	"io"
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/util/term"
)

// Output into a pipe has no size, though the input is a terminal.
func TestNoSizesWithoutTerminal(t *testing.T) {
	tty := term.TTY{Out: io.Discard, Raw: true}
	if size := (sizeQueue{tty.MonitorSize(tty.GetSize())}).Next(); size != nil {
		t.Errorf("the size is %v, want none", size)
	}
}

func TestTellContainer(t *testing.T) {
	const told = "Defaulted container \"a\" out of: a, b\n"
	for name, test := range map[string]struct {
		flags      podFlags
		quiet      bool
		path, want string
	}{
		"several containers":   {flags: podFlags{pod: "two"}, path: "/api/v1/namespaces/edge/pods/two", want: told},
		"in another namespace": {flags: podFlags{pod: "other/two"}, path: "/api/v1/namespaces/other/pods/two", want: told},
		"one that is named":    {flags: podFlags{pod: "two", container: "b"}},
		"the host":             {},
		"quiet":                {flags: podFlags{pod: "two"}, quiet: true},
		"no right to read it":  {flags: podFlags{pod: "secret"}, path: "/api/v1/namespaces/edge/pods/secret"},
	} {
		t.Run(name, func(t *testing.T) {
			asked := ""
			c := testClient(t, func(w http.ResponseWriter, r *http.Request) {
				asked = r.URL.Path
				if test.want == "" {
					w.WriteHeader(http.StatusForbidden)
					return
				}
				w.Header().Set("Content-Type", "application/json")
				_ = json.NewEncoder(w).Encode(&corev1.Pod{
					TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
					Spec:     corev1.PodSpec{Containers: []corev1.Container{{Name: "a"}, {Name: "b"}}},
				})
			})
			streams, _, _, errOut := genericiooptions.NewTestIOStreams()
			c.IOStreams = streams
			c.tellContainer(t.Context(), test.flags, test.quiet)
			if got := errOut.String(); got != test.want || asked != test.path {
				t.Errorf("told %q after asking for %q, want %q and %q", got, asked, test.want, test.path)
			}
		})
	}
}
