package process_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"arhat.dev/aranya/pkg/apis/aranya/v1alpha1"
	"arhat.dev/aranya/test/framework/suite"
)

// edge returns the arguments of a call of the plugin through kubectl.
func edge(args ...string) []string { return append([]string{"edge", "-n", suite.Namespace}, args...) }

func TestPluginExec(t *testing.T) {
	e := suite.Get(t)
	r := e.TryKubectl(t, "input", edge("exec", device, "-i", "--", "sh", "-c", "cat; echo err >&2; exit 42")...)
	want := suite.Result{Stdout: "input", Stderr: "err\ncommand terminated with exit code 42\n", Code: 42}
	if r != want {
		t.Errorf("got %+v, want %+v", r, want)
	}
}

func TestPluginTerminals(t *testing.T) {
	e := suite.Get(t)
	for name, args := range map[string][]string{
		"exec":   edge("exec", device, "-it", "--", "sh"),
		"attach": edge("attach", device, "-it"),
	} {
		t.Run(name, func(t *testing.T) {
			term := e.KubectlTerminal(t, 33, 111, args...)
			// The size comes by a channel of its own, and may be overtaken by what is typed.
			term.Type(t, `until [ "$(stty size)" = "33 111" ]; do sleep 0.05; done; echo size=$(stty size)`+"\n")
			term.Expect(t, `size=33 111`)
			term.Type(t, "exit 7\n")
			if code := term.Wait(t); code != 7 {
				t.Errorf("exit code %d, want 7", code)
			}
		})
	}
}

// The port of a server on the device is reached by both ways that lead to ports.
func TestPluginPorts(t *testing.T) {
	e := suite.Get(t)
	port := strconv.Itoa(freePort(t))
	e.RunPod(t, helloPod(port))
	for name, args := range map[string][]string{
		"port-forward": edge("port-forward", device, "--address=127.0.0.1", ":"+port),
		"proxy":        edge("proxy", device, port, "--port=0"),
	} {
		t.Run(name, func(t *testing.T) {
			address := e.KubectlBackground(t, args...).Expect(t, 30*time.Second, `(127\.0\.0\.1:\d+)`)[1]
			client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
			response, err := client.Get("http://" + address + "/")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = response.Body.Close() }()
			body, err := io.ReadAll(response.Body)
			if err != nil || !strings.HasPrefix(string(body), "Hello from") {
				t.Errorf("%s, body %q, error %v", response.Status, body, err)
			}
		})
	}
}

// The web interface of a device works at the address that the plugin serves it at: redirects included, which
// kube-apiserver lets none of its servers answer with.
func TestPluginProxyOfSite(t *testing.T) {
	e := suite.Get(t)
	port := strconv.Itoa(freePort(t))
	e.RunPod(t, helloPod(port))
	address := e.KubectlBackground(t, edge("proxy", device, port, "--port=0")...).Expect(t, 30*time.Second, `(127\.0\.0\.1:\d+)`)[1]
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + address + "/moved")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.Request.URL.String() != "http://"+address+"/" || !strings.HasPrefix(string(body), "Hello from") {
		t.Errorf("%s at %s: %q, error %v", response.Status, response.Request.URL, body, err)
	}
}

func TestPluginTop(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	// Usage is known once the device has answered its first heartbeat.
	suite.Eventually(t, 30*time.Second, "top knows everything", func(context.Context) error {
		lines := strings.Split(strings.TrimSpace(e.Kubectl(t, edge("top", device)...)), "\n")
		columns := strings.Fields(lines[len(lines)-1])
		if len(lines) != 2 || len(columns) != 9 || columns[0] != device || columns[5] != e.Cluster.State().Link || slices.Contains(columns, "<unknown>") {
			return fmt.Errorf("printed %q", lines)
		}
		return nil
	})
}

func TestPluginToken(t *testing.T) {
	e := suite.Get(t)
	name := suite.Name("token")
	e.Apply(t, manifest(name, "{}"))
	var token v1alpha1.EnrollmentToken
	if err := json.Unmarshal([]byte(e.Kubectl(t, edge("token", name, "--ttl=10m", "-o", "json")...)), &token); err != nil {
		t.Fatal(err)
	}
	if left := time.Until(token.Status.ExpirationTimestamp.Time); left <= 5*time.Minute || left > 10*time.Minute {
		t.Errorf("the token is valid for %s, want 10m", left)
	}
	text := e.Kubectl(t, edge("token", name)...)
	if want := "arhat join --server " + token.Status.Server + " --token "; !strings.Contains(text, want) {
		t.Errorf("%q does not contain %q", text, want)
	}
	if r := e.TryKubectl(t, "", edge("token", name, "--ttl=1s")...); r.Code == 0 || !strings.Contains(r.Stderr, "expirationSeconds") {
		t.Errorf("a token for a second: %+v", r)
	}
}

func TestPluginCompletion(t *testing.T) {
	e := suite.Get(t)
	suite.OnOneLink(t)
	// As kubectl itself calls it for the shell.
	out := e.Kubectl(t, "__complete", "edge", "exec", "-n", suite.Namespace, "device-")
	if names := strings.Fields(out); !slices.Contains(names, device) || !slices.Contains(names, "device-2") {
		t.Errorf("completions of \"device-\": %q", names)
	}
}

// Files go to the host of a device and to a pod, and come back as they were.
func TestPluginCopy(t *testing.T) {
	e := suite.Get(t)
	port := strconv.Itoa(freePort(t))
	pod := e.RunPod(t, helloPod(port))
	local, remote := t.TempDir(), t.TempDir() // the device has the files of this machine
	large := strings.Repeat("0123456789abcdef", 64<<10)
	for name, content := range map[string]string{"small file": "here\n", "sub/large": large, "sub/-x 'y'": ""} {
		path := filepath.Join(local, "site", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	for name, flags := range map[string][]string{
		"host": nil,
		"pod":  {"--pod=" + pod.Namespace + "/" + pod.Name},
	} {
		t.Run(name, func(t *testing.T) {
			there, back := filepath.Join(remote, name), filepath.Join(local, "back-"+name)
			e.Kubectl(t, edge(append([]string{"cp", filepath.Join(local, "site"), device + ":" + there}, flags...)...)...)
			e.Kubectl(t, edge(append([]string{"cp", device + ":" + there, back}, flags...)...)...)
			for _, copied := range []string{there, back} {
				if out, err := exec.Command("diff", "-r", filepath.Join(local, "site"), copied).CombinedOutput(); err != nil {
					t.Errorf("%s: %v\n%s", copied, err, out)
				}
			}
			info, err := os.Stat(filepath.Join(there, "small file"))
			if err != nil || info.Mode().Perm() != 0o640 {
				t.Errorf("mode on the device: %v, %v", info, err)
			}
			link := filepath.Join(remote, name+"-link")
			if err := os.Symlink(there, link); err != nil {
				t.Fatal(err)
			}
			e.Kubectl(t, edge(append([]string{"cp", "-L", device + ":" + link + "/sub/large", filepath.Join(local, "large-"+name)}, flags...)...)...)
			if data, err := os.ReadFile(filepath.Join(local, "large-"+name)); err != nil || string(data) != large {
				t.Errorf("what a link leads to: %d bytes, %v", len(data), err)
			}
			// Into a directory that is there.
			e.Kubectl(t, edge(append([]string{"cp", filepath.Join(local, "site", "small file"), device + ":" + there + "/sub"}, flags...)...)...)
			if data, err := os.ReadFile(filepath.Join(there, "sub", "small file")); err != nil || string(data) != "here\n" {
				t.Errorf("copied into a directory: %q, %v", data, err)
			}
		})
	}
	// What is in a directory that has no name of its own goes into the one that is there.
	e.Kubectl(t, edge("cp", filepath.Join(local, "site", "sub")+"/.", device+":"+remote)...)
	if data, err := os.ReadFile(filepath.Join(remote, "large")); err != nil || string(data) != large {
		t.Errorf("what is in a directory: %d bytes, %v", len(data), err)
	}
	for name, args := range map[string][]string{
		"what is not there":     {device + ":" + filepath.Join(remote, "none"), filepath.Join(local, "none")},
		"into what is no place": {filepath.Join(local, "site"), device + ":" + filepath.Join(remote, "none", "none")},
		"a device that is none": {"none:/etc/os-release", filepath.Join(local, "none")},
	} {
		if r := e.TryKubectl(t, "", edge(append([]string{"cp"}, args...)...)...); r.Code == 0 || !strings.Contains(r.Stderr, "none") {
			t.Errorf("%s: %+v", name, r)
		}
	}
}
