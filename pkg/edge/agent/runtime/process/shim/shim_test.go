package shim

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseStat(t *testing.T) {
	// A command can be named to look like the rest of the line.
	s, err := parseStat([]byte("42 (a) S 1 1) 2 3) R 7 42 42 0 -1 4194560 11 0 12 0 100 200 300 400 20 0 1 0 98765 1000 55 18446744073709551615 0 0"))
	if err != nil {
		t.Fatal(err)
	}
	want := ProcStat{PID: 42, PPID: 7, State: 'R', UTime: 100, STime: 200, ChildUTime: 300, ChildTime: 400, StartTicks: 98765, RSSPages: 55, MinorFaults: 11, MajorFaults: 12}
	if s != want {
		t.Errorf("got %+v, want %+v", s, want)
	}
	for _, text := range []string{"", "42", "42 (a) R", "x (a) R 7 42 42 0 -1 4194560 11 0 12 0 100 200 300 400 20 0 1 0 98765 1000 55"} {
		if _, err := parseStat([]byte(text)); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
	self, err := ReadStat(os.Getpid())
	if err != nil || self.PPID != os.Getppid() || self.StartTicks == 0 {
		t.Errorf("got %+v, %v", self, err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (a b) R 7 42 42 0 -1 4194560 11 0 12 0 100 200 300 400 20 0 1 0 98765 1000 55"))
	f.Fuzz(func(_ *testing.T, data []byte) { _, _ = parseStat(data) })
}

// FuzzLog checks that whatever a container prints can be put together again from its log.
func FuzzLog(f *testing.F) {
	f.Add([]byte("one\ntwo"), 2)
	f.Add([]byte(strings.Repeat("x", maxLogLine)+"\n"), 100)
	f.Add([]byte(strings.Repeat("x", 2*maxLogLine+1)+"\n\n"), 7000)
	f.Fuzz(func(t *testing.T, data []byte, chunk int) {
		if chunk <= 0 {
			return
		}
		path := filepath.Join(t.TempDir(), "log", "0.log")
		log, err := openLog(path)
		if err != nil {
			t.Fatal(err)
		}
		logger := &lineLogger{log: log, stream: "stdout", now: func() time.Time { return time.Unix(1, 0).UTC() }}
		for rest := data; len(rest) > 0; {
			n := min(chunk, len(rest))
			if wrote, err := logger.Write(rest[:n]); wrote != n || err != nil {
				t.Fatalf("wrote %d, %v", wrote, err)
			}
			rest = rest[n:]
		}
		logger.flush()
		if err := log.close(); err != nil {
			t.Fatal(err)
		}
		written, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		for entry := range strings.Lines(string(written)) {
			text, ok := strings.CutPrefix(entry, "1970-01-01T00:00:01Z stdout ")
			if !ok || len(text) > maxLogLine+len("F \n") {
				t.Fatalf("entry %.80q", entry)
			}
			content := strings.TrimSuffix(text[2:], "\n")
			got.WriteString(content)
			if text[0] == 'F' {
				got.WriteByte('\n')
			}
		}
		want := string(data)
		if want != "" && !strings.HasSuffix(want, "\n") {
			want += "\n"
		}
		if got.String() != want {
			t.Errorf("got %.80q, want %.80q", got.String(), want)
		}
	})
}

func TestRecords(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadExit(dir); !os.IsNotExist(err) {
		t.Errorf("got %v", err)
	}
	want := Exit{Code: 137, At: time.Unix(1, 2).UTC(), Reason: "Error"}
	if err := WriteExit(dir, &want); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadExit(dir); err != nil || *got != want {
		t.Errorf("got %v, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, fileExit), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadExit(dir); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("got %v", err)
	}
	if Alive(dir) {
		t.Error("a container without a shim is alive")
	}
}

func TestNearestExisting(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "none"), filepath.Join(dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	existing, missing, err := NearestExisting(dir + "/link/a/b")
	if err != nil || existing != dir || strings.Join(missing, "/") != "a/b" {
		t.Errorf("got %s, %v, %v", existing, missing, err)
	}
	if _, _, err := NearestExisting(dir + "/dangling/a"); err == nil {
		t.Error("a link that leads nowhere was followed")
	}
}
