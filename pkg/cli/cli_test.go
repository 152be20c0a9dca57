package cli

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"arhat.dev/aranya/pkg/version"
)

// run runs the plugin with a server that answers all requests by the handler.
func run(t *testing.T, apiserver http.HandlerFunc, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	c := testClient(t, apiserver)
	streams, _, out, errOut := genericiooptions.NewTestIOStreams()
	cmd := NewCommand(streams)
	cmd.SetArgs(append([]string{"--server=" + *c.flags.APIServer, "--namespace=edge"}, args...))
	code = Run(cmd, errOut)
	return code, out.String(), errOut.String()
}

// The texts of errors are kubectl's, which scripts look for.
func TestErrors(t *testing.T) {
	notFound := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no such device","reason":"NotFound","code":404}`))
	}
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"of the server": {args: []string{"token", "d"}, want: "Error from server (NotFound): no such device\n"},
		"of ours":       {args: []string{"proxy", "d", "x"}, want: `error: "x" is not a port: give a number from 1 to 65535` + "\n"},
		"contradiction": {args: []string{"token", "d", "--token-only", "-o=json"}, want: "error: if any flags in the group [token-only output] are set"},
	} {
		t.Run(name, func(t *testing.T) {
			if code, _, stderr := run(t, notFound, tc.args...); code != 1 || !strings.HasPrefix(stderr, tc.want) {
				t.Errorf("code %d, %q", code, stderr)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	_, stdout, stderr := run(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Warning", `299 - "took the first one"`)
		_, _ = w.Write([]byte("log"))
	}, "logs", "d")
	if stdout != "log" || stderr != "Warning: took the first one\n" {
		t.Errorf("stdout %q, stderr %q", stdout, stderr)
	}
}

func TestVersionAndVerbosity(t *testing.T) {
	nothing := func(http.ResponseWriter, *http.Request) {}
	if code, stdout, stderr := run(t, nothing, "-v=0", "--version"); code != 0 || stdout != "kubectl edge version "+version.String()+"\n" {
		t.Errorf("code %d, %q, %q", code, stdout, stderr)
	}
}

func TestCompleteFlags(t *testing.T) {
	devices := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"kind":"EdgeDeviceList","apiVersion":"aranya.arhat.dev/v1alpha1","items":[{"metadata":{"name":"device-1"}},{"metadata":{"name":"other"}}]}`))
	}
	for name, tc := range map[string]struct {
		args []string
		want []string // with the directive: 4 is no files, 2 no space
	}{
		"pod":        {args: []string{"exec", "d", "--pod", ""}, want: []string{":4"}},
		"container":  {args: []string{"logs", "d", "-c", ""}, want: []string{":4"}},
		"scheme":     {args: []string{"proxy", "d", "1", "--scheme", ""}, want: []string{"http", "https", ":4"}},
		"context":    {args: []string{"top", "--context", ""}, want: []string{":4"}},
		"device":     {args: []string{"exec", "dev"}, want: []string{"device-1", ":4"}},
		"cp":         {args: []string{"cp", "dev"}, want: []string{"device-1:", ":2"}},
		"local file": {args: []string{"cp", "device-1:/x", "./"}, want: []string{":0"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, stdout, _ := run(t, devices, append([]string{"__complete"}, tc.args...)...)
			var got []string
			for line := range strings.Lines(stdout) {
				got = append(got, strings.TrimSpace(line))
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
