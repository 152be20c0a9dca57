package suite

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// Background is a command that runs while the test goes on.
type Background struct {
	cmd   *exec.Cmd
	lines chan string
}

// KubectlBackground starts kubectl; what it writes to standard output is read line by line. It is
// ended with the test.
func (e *Env) KubectlBackground(t testing.TB, args ...string) *Background {
	t.Helper()
	cmd := e.Cluster.Kubectl(t.Context(), args...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := &Background{cmd: cmd, lines: make(chan string, 1000)}
	go func() {
		defer close(b.lines)
		for scanner := bufio.NewScanner(stdout); scanner.Scan(); {
			b.lines <- scanner.Text()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		for range b.lines {
		}
		_ = cmd.Wait()
	})
	return b
}

// Expect waits for a line that matches and returns its submatches.
func (b *Background) Expect(t testing.TB, timeout time.Duration, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	var seen []string
	deadline := time.After(timeout)
	for {
		select {
		case line, ok := <-b.lines:
			if !ok {
				t.Fatalf("the command ended; no line matches %q in %q", pattern, seen)
			}
			if m := re.FindStringSubmatch(line); m != nil {
				return m
			}
			seen = append(seen, line)
		case <-deadline:
			t.Fatalf("no line matches %q within %s in %q", pattern, timeout, seen)
		}
	}
}

// Terminal is a command in a terminal.
type Terminal struct {
	io.ReadWriter
	cmd    *exec.Cmd
	output chan byte
	seen   []byte
}

// KubectlTerminal starts kubectl in a terminal of the given size.
func (e *Env) KubectlTerminal(t testing.TB, rows, columns uint16, args ...string) *Terminal {
	t.Helper()
	cmd := e.Cluster.Kubectl(t.Context(), args...)
	file, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: rows, Cols: columns})
	if err != nil {
		t.Fatal(err)
	}
	term := &Terminal{ReadWriter: file, cmd: cmd, output: make(chan byte, 1<<16)}
	go func() {
		defer close(term.output)
		for r := bufio.NewReader(file); ; {
			c, err := r.ReadByte()
			if err != nil {
				return
			}
			term.output <- c
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = file.Close()
		for range term.output {
		}
		_ = cmd.Wait()
	})
	return term
}

// Type sends keystrokes.
func (term *Terminal) Type(t testing.TB, keys string) {
	t.Helper()
	if _, err := io.WriteString(term, keys); err != nil {
		t.Fatal(err)
	}
}

// Expect waits until the output since the last call matches, and returns the submatches.
func (term *Terminal) Expect(t testing.TB, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	deadline := time.After(30 * time.Second)
	for {
		if m := re.FindStringSubmatch(string(term.seen)); m != nil {
			term.seen = nil
			return m
		}
		select {
		case c, ok := <-term.output:
			if !ok {
				t.Fatalf("the command ended; %q does not match %q", term.seen, pattern)
			}
			term.seen = append(term.seen, c)
		case <-deadline:
			t.Fatalf("%q does not match %q", term.seen, pattern)
		}
	}
}

// Wait waits until the command has ended and returns its exit code.
func (term *Terminal) Wait(t testing.TB) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range term.output {
		}
		_ = term.cmd.Wait()
	}()
	select {
	case <-done:
		return term.cmd.ProcessState.ExitCode()
	case <-ctx.Done():
		t.Fatal(fmt.Errorf("the command does not end: %w", ctx.Err()))
		return -1
	}
}
