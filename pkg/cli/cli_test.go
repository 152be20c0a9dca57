package cli

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
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

// commands are those that take a device, which stands for DEVICE.
var commands = map[string][]string{
	"exec":         {"exec", "DEVICE", "--", "ls"},
	"attach":       {"attach", "DEVICE"},
	"cp":           {"cp", "DEVICE:/a", "/nowhere/b"},
	"logs":         {"logs", "DEVICE"},
	"port-forward": {"port-forward", "DEVICE", ":80"},
	"token":        {"token", "DEVICE"},
	"top":          {"top", "DEVICE"},
}

// A device may be given with its type, as with kubectl; the server is asked for it by its name.
func TestTypeAndName(t *testing.T) {
	for name, command := range commands {
		t.Run(name, func(t *testing.T) {
			asked := make(chan string, 100)
			server := func(w http.ResponseWriter, r *http.Request) {
				asked <- r.URL.Path
				w.WriteHeader(http.StatusNotFound)
			}
			for _, device := range []string{"device-1", "edgedevice/device-1", "edgedevices/device-1", "ed/device-1", "EdgeDevice/device-1",
				"edgedevices.aranya.arhat.dev/device-1", "edgedevices.v1alpha1.aranya.arhat.dev/device-1"} {
				_, _, stderr := run(t, server, withDevice(command, device)...)
				select {
				case path := <-asked:
					if !strings.HasPrefix(path+"/", "/apis/aranya.arhat.dev/v1alpha1/namespaces/edge/edgedevices/device-1/") {
						t.Errorf("%s: asked for %s", device, path)
					}
				default:
					t.Errorf("%s: %s", device, stderr)
				}
			}
		})
	}
}

func TestOtherTypes(t *testing.T) {
	server := func(_ http.ResponseWriter, r *http.Request) { t.Errorf("asked for %s", r.URL.Path) }
	commands := maps.Clone(commands)
	commands["proxy"] = []string{"proxy", "DEVICE", "80", "--port=0"}
	delete(commands, "cp") // where it is a local path
	for name, command := range commands {
		t.Run(name, func(t *testing.T) {
			for _, device := range []string{"pod/device-1", "edge/device-1", "ed/", "ed/a/b", "ed/..", "ed.apps/device-1", ""} {
				code, stdout, stderr := run(t, server, withDevice(command, device)...)
				want := "error: " + strconv.Quote(device) + " is not a device: give the name of an EdgeDevice, as NAME or edgedevice/NAME\n"
				if code != 1 || stdout != "" || stderr != want {
					t.Errorf("code %d, %q, %q", code, stdout, stderr)
				}
			}
		})
	}
}

func withDevice(command []string, device string) []string {
	args := slices.Clone(command)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "DEVICE", device)
	}
	return args
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
