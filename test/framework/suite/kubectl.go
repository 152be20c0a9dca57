package suite

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// kubectlTimeout bounds a call of kubectl.
const kubectlTimeout = 3 * time.Minute

// Result is how a call of kubectl ended.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Kubectl runs stock kubectl as administrator and returns its output. The test fails if it does.
func (e *Env) Kubectl(t testing.TB, args ...string) string {
	t.Helper()
	return e.KubectlInput(t, "", args...)
}

// KubectlInput runs kubectl with an input.
func (e *Env) KubectlInput(t testing.TB, input string, args ...string) string {
	t.Helper()
	r := e.TryKubectl(t, input, args...)
	if r.Code != 0 {
		t.Fatalf("kubectl %s: exit code %d\n%s%s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// TryKubectl runs kubectl, which may fail.
func (e *Env) TryKubectl(t testing.TB, input string, args ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kubectlTimeout)
	defer cancel()
	cmd := e.Cluster.Kubectl(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	r := Result{Stdout: stdout.String(), Stderr: stderr.String()}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		r.Code = exit.ExitCode()
	} else if err != nil {
		t.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
	return r
}

// Apply applies a manifest, and deletes its objects when the test ends.
func (e *Env) Apply(t testing.TB, manifest string) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), kubectlTimeout)
		defer cancel()
		cmd := e.Cluster.Kubectl(ctx, "delete", "--ignore-not-found", "--grace-period=1", "-f", "-")
		cmd.Stdin = strings.NewReader(manifest)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("clean up: kubectl delete: %v: %s", err, out)
		}
	})
	e.KubectlInput(t, manifest, "apply", "-f", "-")
}
