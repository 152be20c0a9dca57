package cli

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/utils/ptr"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
)

func TestLogsOptions(t *testing.T) {
	for name, test := range map[string]struct {
		options logsOptions
		want    *v1alpha1.EdgeDeviceLogOptions
		err     string
	}{
		"defaults ask for everything": {
			options: logsOptions{tail: -1},
			want:    &v1alpha1.EdgeDeviceLogOptions{},
		},
		"a fraction of a second is rounded up": {
			options: logsOptions{tail: -1, since: 1500 * time.Millisecond},
			want:    &v1alpha1.EdgeDeviceLogOptions{SinceSeconds: ptr.To[int64](2)},
		},
		"no lines is not all lines": {
			options: logsOptions{tail: 0, unit: "ssh.service", follow: true},
			want:    &v1alpha1.EdgeDeviceLogOptions{Unit: "ssh.service", Follow: true, TailLines: ptr.To[int64](0)},
		},
		"previous instance of a container": {
			options: logsOptions{tail: 5, limitBytes: 10, previous: true, timestamps: true, podFlags: podFlags{pod: "web", container: "a"}},
			want: &v1alpha1.EdgeDeviceLogOptions{Pod: "web", Container: "a", Previous: true, Timestamps: true,
				TailLines: ptr.To[int64](5), LimitBytes: ptr.To[int64](10)},
		},
		"two sources":              {options: logsOptions{tail: -1, unit: "a", path: "/b"}, err: "at most one of --pod, --path and --unit"},
		"previous of the host":     {options: logsOptions{tail: -1, previous: true}, err: "--previous needs --pod"},
		"two beginnings":           {options: logsOptions{tail: -1, since: 1, sinceTime: "2026-01-02T03:04:05Z"}, err: "--since and --since-time"},
		"a time that is none":      {options: logsOptions{tail: -1, sinceTime: "yesterday"}, err: "--since-time"},
		"a negative since":         {options: logsOptions{tail: -1, since: -1}, err: "--since must"},
		"a negative limit":         {options: logsOptions{tail: -1, limitBytes: -1}, err: "--limit-bytes must"},
		"a negative tail":          {options: logsOptions{tail: -2}, err: "--tail must"},
		"a container without pod":  {options: logsOptions{tail: -1, podFlags: podFlags{container: "a"}}, err: "--container needs --pod"},
		"a container with a pod":   {options: logsOptions{tail: -1, podFlags: podFlags{pod: "p", container: "a"}}, want: &v1alpha1.EdgeDeviceLogOptions{Pod: "p", Container: "a"}},
		"a pod and a file":         {options: logsOptions{tail: -1, path: "/b", podFlags: podFlags{pod: "p"}}, err: "at most one of"},
		"limit of bytes is passed": {options: logsOptions{tail: -1, limitBytes: 1}, want: &v1alpha1.EdgeDeviceLogOptions{LimitBytes: ptr.To[int64](1)}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := test.options.toOptions()
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error = %v, want one with %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("options (-want +got):\n%s", diff)
			}
		})
	}
}

// A log whose rest cannot be had does not end as if it were complete, nor with words of the protocol.
func TestLogsCutOff(t *testing.T) {
	c := testClient(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "a line\n")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	streams, _, out, _ := genericiooptions.NewTestIOStreams()
	c.IOStreams = streams
	cmd := newLogsCommand(c)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs([]string{"device-1"})
	if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "the log was cut off") {
		t.Errorf("error %v", err)
	}
	if out.String() != "a line\n" {
		t.Errorf("printed %q", out)
	}
}

func TestIsCutOff(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"none":      {},
		"HTTP/1.1":  {err: io.ErrUnexpectedEOF, want: true},
		"HTTP/2":    {err: http2.StreamError{StreamID: 1, Code: http2.ErrCodeInternal}, want: true},
		"forbidden": {err: apierrors.NewUnauthorized("no")},
	} {
		if got := isCutOff(test.err); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
