package drain

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"arhat.dev/aranya/pkg/edge/agent/tty"
)

// endless is longer than any test.
const endless = time.Hour

// pipe returns the two ends of a pipe.
func pipe(t *testing.T) (read, write *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = read.Close(), write.Close() })
	return read, write
}

// terminal is the same with a terminal.
func terminal(t *testing.T) (read, write *os.File) {
	t.Helper()
	master, fd, err := tty.Open()
	if err != nil {
		t.Fatal(err)
	}
	slave := os.NewFile(uintptr(fd), "tty")
	t.Cleanup(func() { _, _ = master.Close(), slave.Close() })
	return master, slave
}

// What was written before the end is read, whether or not another process holds the output.
func TestReadsWhatIsThere(t *testing.T) {
	for name, tt := range map[string]struct {
		open     func(*testing.T) (read, write *os.File)
		size     int
		patience time.Duration
		held     bool
	}{
		"pipe":                    {pipe, 60000, endless, false},
		"pipe, late":              {pipe, 60000, 0, false},
		"pipe, late and held":     {pipe, 60000, 0, true},
		"pipe, held":              {pipe, 60000, time.Millisecond, true},
		"terminal":                {terminal, 3000, endless, false},
		"terminal, late":          {terminal, 3000, 0, false},
		"terminal, late and held": {terminal, 3000, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			file, write := tt.open(t)
			want := bytes.Repeat([]byte("x"), tt.size)
			if _, err := write.Write(want); err != nil {
				t.Fatal(err)
			}
			if !tt.held {
				_ = write.Close()
			}
			r := NewReader(file, tt.patience)
			r.End()
			if got, _ := io.ReadAll(r); !bytes.Equal(got, want) { // a terminal ends with EIO
				t.Errorf("%d bytes of %d", len(got), len(want))
			}
		})
	}
}

// Without an end there is no hurry, and the end wakes a Read that waits.
func TestEndWhileReading(t *testing.T) {
	file, write := pipe(t)
	r := NewReader(file, 0)
	if _, err := io.WriteString(write, "x"); err != nil {
		t.Fatal(err)
	}
	got := make(chan string)
	go func() {
		var all strings.Builder
		buffer := make([]byte, 1)
		for {
			n, err := r.Read(buffer)
			if err != nil {
				break
			}
			all.Write(buffer[:n])
			got <- "some"
		}
		got <- all.String()
	}()
	<-got
	r.End()
	if all := <-got; all != "x" {
		t.Errorf("got %q", all)
	}
}

// While there is patience, what a process that was left behind writes is waited for.
func TestWaits(t *testing.T) {
	file, write := pipe(t)
	r := NewReader(file, endless)
	r.End()
	go func() {
		_, _ = io.WriteString(write, "late")
		_ = write.Close()
	}()
	if got, err := io.ReadAll(r); string(got) != "late" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// A process that was left behind and never stops writing does not hold up for ever.
func TestEndlessOutput(t *testing.T) {
	file, write := pipe(t)
	r := NewReader(file, 0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if _, err := write.Write(make([]byte, 32<<10)); err != nil {
				return
			}
		}
	}()
	r.End()
	if n, err := io.Copy(io.Discard, r); n > maxRest || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	_ = file.Close()
	<-done
}
