package process_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/utils/exec"

	"arhat.dev/aranya/test/framework/suite"
)

// eachProtocol runs a test with SPDY and with WebSocket, through the aggregator.
func eachProtocol(t *testing.T, test func(t *testing.T, e *suite.Env, protocol string)) {
	e := suite.Get(t)
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) { test(t, e, protocol) })
	}
}

func command(argv ...string) url.Values {
	return url.Values{"command": argv, "stdout": {"true"}, "stderr": {"true"}}
}

func TestHostExec(t *testing.T) {
	eachProtocol(t, func(t *testing.T, e *suite.Env, protocol string) {
		var stdout, stderr bytes.Buffer
		query := command("sh", "-c", "cat; echo err >&2; exit 42")
		query.Set("stdin", "true")
		err := stream(t, e.Config, protocol, subresource(t, e.Config, device, "exec", query), remotecommand.StreamOptions{
			Stdin: strings.NewReader("some input"), Stdout: &stdout, Stderr: &stderr})
		var exit utilexec.ExitError
		if !errors.As(err, &exit) || exit.ExitStatus() != 42 {
			t.Errorf("error %v, want exit code 42", err)
		}
		if stdout.String() != "some input" || stderr.String() != "err\n" {
			t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
		}
	})
}

// The command is an argument vector: no shell sees it.
func TestHostExecIsNotAShell(t *testing.T) {
	eachProtocol(t, func(t *testing.T, e *suite.Env, protocol string) {
		var stdout bytes.Buffer
		want := "$HOME; `id` 'quoted' *"
		query := url.Values{"command": {"printf", "%s", want}, "stdout": {"true"}}
		err := stream(t, e.Config, protocol, subresource(t, e.Config, device, "exec", query), remotecommand.StreamOptions{Stdout: &stdout})
		if err != nil || stdout.String() != want {
			t.Errorf("stdout %q, error %v", stdout.String(), err)
		}
	})
}

type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size, ok := <-s
	if !ok {
		return nil
	}
	return &size
}

func TestHostExecTerminal(t *testing.T) {
	eachProtocol(t, func(t *testing.T, e *suite.Env, protocol string) {
		queue := make(sizes, 1)
		queue <- remotecommand.TerminalSize{Width: 123, Height: 45}
		stdin, keys := io.Pipe()
		var stdout bytes.Buffer
		query := url.Values{"command": {"sh", "-c", `read x; until [ "$(stty size)" != "0 0" ]; do sleep 0.05; done; stty size; exit 3`}, "stdin": {"true"}, "stdout": {"true"}, "tty": {"true"}}
		go func() { _, _ = io.WriteString(keys, "go\n") }()
		err := stream(t, e.Config, protocol, subresource(t, e.Config, device, "exec", query), remotecommand.StreamOptions{
			Stdin: stdin, Stdout: &stdout, Tty: true, TerminalSizeQueue: queue})
		close(queue)
		_ = keys.Close()
		var exit utilexec.ExitError
		if !errors.As(err, &exit) || exit.ExitStatus() != 3 || !strings.Contains(stdout.String(), "45 123\r\n") {
			t.Errorf("stdout %q, error %v", stdout.String(), err)
		}
	})
}

func TestHostAttach(t *testing.T) {
	eachProtocol(t, func(t *testing.T, e *suite.Env, protocol string) {
		var stdout bytes.Buffer
		query := url.Values{"stdin": {"true"}, "stdout": {"true"}}
		err := stream(t, e.Config, protocol, subresource(t, e.Config, device, "attach", query), remotecommand.StreamOptions{
			Stdin: strings.NewReader("echo one$((1+1))three\nexit 0\n"), Stdout: &stdout})
		if err != nil || !strings.Contains(stdout.String(), "one2three") {
			t.Errorf("stdout %q, error %v", stdout.String(), err)
		}
	})
}

func TestHostLog(t *testing.T) {
	e := suite.Get(t)
	for _, args := range [][]string{{"--tail=5"}, {"--since=1h", "--limit-bytes=2000"}} {
		out := e.Kubectl(t, append([]string{"edge", "-n", "edge", "logs", device}, args...)...)
		if out == "" || len(out) > 10000 {
			t.Errorf("%v: %q", args, out)
		}
	}
}

func TestHostPortForward(t *testing.T) {
	eachProtocol(t, func(t *testing.T, e *suite.Env, protocol string) {
		port := freePort(t)
		pod := e.RunPod(t, helloPod(strconv.Itoa(port)))
		// A connection that is refused may take its session with it: the SPDY library does not get over a
		// stream that is reset while it is being opened.
		suite.Eventually(t, 30*time.Second, "the server listens", func(context.Context) error {
			if out := e.Kubectl(t, "-n", suite.Namespace, "logs", pod.Name); !strings.Contains(out, "listening") {
				return fmt.Errorf("log %q", out)
			}
			return nil
		})
		query := url.Values{"ports": {strconv.Itoa(port)}}
		address, err := forward(t, e.Config, protocol, subresource(t, e.Config, device, "portforward", query), port)
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		suite.Eventually(t, 30*time.Second, "the server answers", func(context.Context) error {
			resp, err := client.Get("http://" + address)
			if err != nil {
				return err
			}
			defer func() { _ = resp.Body.Close() }()
			body, err := io.ReadAll(resp.Body)
			if err == nil && !strings.HasPrefix(string(body), "Hello from") {
				err = fmt.Errorf("body %q", body)
			}
			return err
		})
	})
}

func TestHostProxy(t *testing.T) {
	e := suite.Get(t)
	port := freePort(t)
	e.RunPod(t, helloPod(strconv.Itoa(port)))
	path := fmt.Sprintf("/apis/aranya.arhat.dev/v1alpha1/namespaces/edge/edgedevices/%s:%d/proxy/", device, port)
	suite.Eventually(t, 30*time.Second, "the server answers", func(context.Context) error {
		if r := e.TryKubectl(t, "", "get", "--raw", path); !strings.HasPrefix(r.Stdout, "Hello from") {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// What cannot work is told as an API status, before any stream is opened.
func TestErrorsComeBeforeTheStream(t *testing.T) {
	eachProtocol(t, func(t *testing.T, e *suite.Env, protocol string) {
		offline := suite.Name("offline")
		e.Apply(t, manifest(offline, "{}"))
		for _, test := range []struct{ device, want string }{
			{"no-such-device", "not found"},
			{offline, "offline|not connected|never"},
		} {
			var stdout bytes.Buffer
			err := stream(t, e.Config, protocol, subresource(t, e.Config, test.device, "exec", command("id")), remotecommand.StreamOptions{
				Stdout: &stdout, Stderr: &stdout})
			if err == nil || !regexp.MustCompile(test.want).MatchString(err.Error()) {
				t.Errorf("%s: %v, want %s", test.device, err, test.want)
			}
		}
	})
}
