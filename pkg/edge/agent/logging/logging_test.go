package logging

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"arhat.dev/aranya/pkg/edge/agent/config"
)

func TestFileIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log", "arhat.log")
	f, err := openFile(path, 1000, 3, false)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		if _, err := fmt.Fprintf(f, "entry %d\n", i); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	if n, err := f.Write([]byte("late")); n != 4 || err != nil {
		t.Errorf("a write after close gave %d, %v", n, err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 3 {
		t.Fatalf("got %v, %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Size() > 1000 || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", e.Name(), info, err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil || !strings.HasSuffix(string(data), " entry 199\n") {
		t.Errorf("the file ends with %.50q, %v", data[max(0, len(data)-50):], err)
	}
	for line := range strings.Lines(string(data)) {
		at, _, _ := strings.Cut(line, " ")
		if _, err := time.Parse(time.RFC3339Nano, at); err != nil {
			t.Error(err)
		}
	}
}

// TestFileAfterFailure checks that the log goes on when what kept its file from being opened, or closed well, is over.
func TestFileAfterFailure(t *testing.T) {
	for name, hinder := range map[string]func(t *testing.T, f *File) (end func()){
		"no new file": func(_ *testing.T, f *File) func() {
			path := f.path
			f.path = filepath.Join(filepath.Dir(path), "missing", "arhat.log")
			return func() { f.path = path }
		},
		"the old one fails": func(t *testing.T, f *File) func() {
			if err := f.file.Close(); err != nil {
				t.Fatal(err)
			}
			return func() {}
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "arhat.log")
			f, err := openFile(path, 100, 2, false)
			if err != nil {
				t.Fatal(err)
			}
			entry := strings.Repeat("x", 80)
			if _, err := fmt.Fprintln(f, entry); err != nil {
				t.Fatal(err)
			}
			end := hinder(t, f)
			if _, err := fmt.Fprintln(f, entry); err == nil {
				t.Error("nothing was said of an entry that was lost")
			}
			end()
			if _, err := fmt.Fprintln(f, "goes on"); err != nil {
				t.Error(err)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
			if data, err := os.ReadFile(path); err != nil || !strings.HasSuffix(string(data), " goes on\n") {
				t.Errorf("the log is %q, %v", data, err)
			}
		})
	}
}

func TestSetup(t *testing.T) {
	for _, tt := range []struct {
		format, level string
		want, not     string
	}{
		{"text", "info", `"Hello" from="test"`, "Detail"},
		{"json", "info", `"msg":"Hello"`, "Detail"},
		{"json", "trace", `"msg":"Detail"`, ""},
		{"text", "trace", `"Detail"`, ""},
		{"text", "error", "Broken", "Hello"},
		{"json", "error", "Broken", "Hello"},
	} {
		t.Run(tt.format+" "+tt.level, func(t *testing.T) {
			c := config.New()
			c.Server, c.StateDir = "localhost:1", t.TempDir()
			c.Logging.Format, c.Logging.Level = tt.format, tt.level
			if err := c.Finish(); err != nil {
				t.Fatal(err)
			}
			logger, closer, err := Setup(&c.Logging)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(klog.ClearLogger)
			logger.Info("Hello", "from", "test")
			logger.V(5).Info("Detail")
			klog.Background().Error(errors.New("reason"), "Broken")
			if err := closer.Close(); err != nil {
				t.Error(err)
			}
			data, err := os.ReadFile(filepath.Join(c.StateDir, "arhat.log"))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(data), tt.want) || !strings.Contains(string(data), "Broken") || tt.not != "" && strings.Contains(string(data), tt.not) {
				t.Errorf("the log is %q", data)
			}
			if tt.format != "json" {
				return
			}
			for line := range strings.Lines(string(data)) {
				if !json.Valid([]byte(line)) {
					t.Errorf("%q is not JSON", line)
				}
			}
		})
	}
}

// TestLevels checks that entries of a verbosity have the level by which that is configured.
func TestLevels(t *testing.T) {
	out := &bytes.Buffer{}
	logger := newLogger(&config.Logging{Format: "json", Level: "trace"}, out, 6)
	for _, tt := range []struct {
		log   func()
		level string
		v     any
	}{
		{func() { logger.Info("") }, "INFO", 0.},
		{func() { logger.V(2).Info("") }, "INFO", 2.},
		{func() { logger.V(3).Info("") }, "DEBUG", 3.},
		{func() { logger.V(6).Info("") }, "DEBUG", 6.},
		{func() { logger.Error(errors.New("reason"), "") }, "ERROR", nil},
		{func() { logger.V(4).Error(errors.New("reason"), "") }, "ERROR", nil},
		{func() { logger.WithValues("level", "high").Info("") }, "high", 0.}, // a key of its own, that comes later
	} {
		out.Reset()
		tt.log()
		entry := map[string]any{}
		if err := json.Unmarshal(out.Bytes(), &entry); err != nil || entry["level"] != tt.level || entry["v"] != tt.v {
			t.Errorf("got %s (%v), want level %s and v %v", out, err, tt.level, tt.v)
		}
	}
}
