package demo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// stepTimeout bounds each command of the tour.
const stepTimeout = 2 * time.Minute

// run prints a command, runs it and shows its output. The output must contain all that is wanted.
func (t *tour) run(ctx context.Context, command []string, want ...string) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	_, _ = fmt.Fprintf(t.out, "\n$ %s\n", quote(command))
	cmd := t.command(ctx, command)
	var output bytes.Buffer
	both := io.MultiWriter(t.out, &output)
	cmd.Stdout, cmd.Stderr = both, both
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", quote(command), err)
	}
	for _, text := range want {
		if !strings.Contains(output.String(), text) {
			return fmt.Errorf("%s: the output does not contain %q", quote(command), text)
		}
	}
	return nil
}

func (t *tour) command(ctx context.Context, command []string) *exec.Cmd {
	cmd := t.cluster.Kubectl(ctx, command[1:]...)
	if command[0] != "kubectl" {
		env := cmd.Env
		cmd = exec.CommandContext(ctx, command[0], command[1:]...)
		cmd.Env = env
	}
	cmd.Dir = t.dir
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

var forwarding = regexp.MustCompile(`^Forwarding from (127\.0\.0\.1:\d+) -> `)

// portForward runs a port-forward in the background and an HTTP request through it.
func (t *tour) portForward(ctx context.Context, command []string, path, want string) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	_, _ = fmt.Fprintf(t.out, "\n$ %s &\n", quote(command))
	cmd := t.command(ctx, command)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = t.out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		cancel()
		_ = cmd.Wait()
	}()
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		_, _ = fmt.Fprintln(t.out, lines.Text())
		if m := forwarding.FindStringSubmatch(lines.Text()); m != nil {
			return t.get(ctx, "http://"+m[1]+path, want)
		}
	}
	return errors.Join(fmt.Errorf("%s ended early", quote(command)), lines.Err())
}

// get fetches a URL with curl if there is one.
func (t *tour) get(ctx context.Context, url, want string) error {
	if _, err := exec.LookPath("curl"); err == nil {
		return t.run(ctx, []string{"curl", "--silent", "--show-error", "--fail", url}, want)
	}
	_, _ = fmt.Fprintf(t.out, "\nGET %s (curl is not installed)\n", url)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	_, _ = t.out.Write(body)
	if resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
		return fmt.Errorf("GET %s: status %s; the answer does not contain %q", url, resp.Status, want)
	}
	return nil
}

var plain = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

// quote shows an argument vector as one would type it.
func quote(command []string) string {
	words := make([]string, len(command))
	for i, word := range command {
		if !plain.MatchString(word) {
			word = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
		words[i] = word
	}
	return strings.Join(words, " ")
}
