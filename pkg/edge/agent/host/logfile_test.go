package host

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"arhat.dev/aranya/pkg/edge/agent/config"
	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

// newLogHost allows the files below the directory "logs" that it returns.
func newLogHost(t *testing.T) (*Host, string) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(base, "logs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return newHost(t, func(c *config.Configuration, _ *edgeapi.HostPolicy) {
		c.Policy.HostLog.Paths = []string{dir + "/**"}
	}), dir
}

func fileRequest(path string, change ...func(*edgeapi.Log)) *edgeapi.OpenStream {
	l := &edgeapi.Log{Source: &edgeapi.Log_Path{Path: path}, TailLines: -1, LimitBytes: -1}
	for _, f := range change {
		f(l)
	}
	return logRequest(l)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestTail(t *testing.T) {
	h, dir := newLogHost(t)
	path := filepath.Join(dir, "file")
	var lines strings.Builder
	for i := range 10000 {
		fmt.Fprintf(&lines, "line %d\n", i)
	}
	lines.WriteString("no end")
	write(t, path, lines.String())
	all := lines.String()
	_, last9000, _ := strings.Cut(all, "line 1000\n")
	for _, tt := range []struct {
		tail, limit int64
		want        string
	}{
		{-1, -1, all},
		{0, -1, ""},
		{1, -1, "no end"},
		{3, -1, "line 9998\nline 9999\nno end"},
		{100000, -1, all},
		{9000, -1, last9000},
		{-1, 10, all[:10]},
		{3, 6, "line 9"},
	} {
		stdout, _, result := open(t, h, fileRequest(path, func(l *edgeapi.Log) { l.TailLines, l.LimitBytes = tt.tail, tt.limit })).finish()
		if stdout != tt.want || result.GetReason() != "" {
			t.Errorf("tail %d, limit %d: got %d bytes %.40q, %v, want %d bytes", tt.tail, tt.limit, len(stdout), stdout, result, len(tt.want))
		}
	}
}

func TestLogFileIsRefused(t *testing.T) {
	h, dir := newLogHost(t)
	outside := filepath.Join(filepath.Dir(dir), "secret")
	write(t, outside, "secret")
	write(t, filepath.Join(dir, "file"), "ok")
	for link, to := range map[string]string{
		"inside":   filepath.Join(dir, "file"),
		"escape":   outside,
		"parent":   filepath.Dir(dir),
		"relative": "../secret",
		"nowhere":  filepath.Join(dir, "none"),
	} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	for path, reason := range map[string]string{
		outside:                         "Forbidden",
		dir + "/escape":                 "Forbidden",
		dir + "/relative":               "Forbidden",
		dir + "/parent/secret":          "Forbidden",
		dir + "/../secret":              "Forbidden",
		filepath.Dir(dir) + "/not-here": "Forbidden",
		dir + "/not-here":               "NotFound",
		dir + "/nowhere":                "NotFound",
		dir + "/fifo":                   "BadRequest",
		dir + "/parent/logs":            "Forbidden",
		"relative":                      "BadRequest",
	} {
		if got := open(t, h, fileRequest(path)).refused(); got.Reason != reason {
			t.Errorf("%s gave %v, want %s", path, got, reason)
		}
	}
	if stdout, _, result := open(t, h, fileRequest(dir+"/inside")).finish(); stdout != "ok" || result.GetReason() != "" {
		t.Errorf("a link inside gave %q, %v", stdout, result)
	}
}

func TestFollow(t *testing.T) {
	h, dir := newLogHost(t)
	path := filepath.Join(dir, "file")
	write(t, path, "old\n")
	s := open(t, h, fileRequest(path, func(l *edgeapi.Log) { l.Follow = true }))
	out := bufio.NewReader(s.Reader(edgeapi.Channel_STDOUT))
	expect := func(want string) {
		t.Helper()
		if line, err := out.ReadString('\n'); err != nil || line != want+"\n" {
			t.Fatalf("got %q, %v, want %q", line, err, want)
		}
	}
	expect("old")
	write(t, path, "added\n")
	expect("added")
	// Rotation by rename, with a last word to the old file.
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write(t, path+".1", "last\n")
	write(t, path, "new\n")
	expect("last")
	expect("new")
	// Rotation by truncation.
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	write(t, path, "x\n")
	expect("x")
	// A rotation must not be a way out either.
	outside := filepath.Join(filepath.Dir(dir), "secret")
	write(t, outside, "secret\n")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, path); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(out); err != nil || len(rest) > 0 {
		t.Errorf("got %q, %v", rest, err)
	}
	if _, _, result := s.finish(); result.GetReason() != "Forbidden" {
		t.Errorf("got %v", result)
	}
}

func TestAgentLog(t *testing.T) {
	h := newHost(t)
	request := func(change func(*edgeapi.Log)) *edgeapi.OpenStream {
		l := &edgeapi.Log{Source: &edgeapi.Log_Agent{Agent: true}, TailLines: -1, LimitBytes: -1}
		change(l)
		return logRequest(l)
	}
	if got := open(t, h, request(func(*edgeapi.Log) {})).refused(); got.Reason != "NotFound" || !strings.Contains(got.Message, "logging.file.disabled") {
		t.Errorf("without a file: %v", got)
	}
	path := filepath.Join(t.TempDir(), "arhat.log")
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range 3 {
		write(t, path, fmt.Sprintf("%s entry %d\n  more of %d\n", at.Add(time.Duration(i)*time.Second).Format(time.RFC3339Nano), i, i))
	}
	h.config.AgentLog = path
	for name, tt := range map[string]struct {
		change func(*edgeapi.Log)
		want   string
	}{
		"all":   {func(*edgeapi.Log) {}, "entry 0\n  more of 0\nentry 1\n  more of 1\nentry 2\n  more of 2\n"},
		"tail":  {func(l *edgeapi.Log) { l.TailLines = 2 }, "entry 2\n  more of 2\n"},
		"since": {func(l *edgeapi.Log) { l.SinceNs = at.Add(time.Second).UnixNano() }, "entry 1\n  more of 1\nentry 2\n  more of 2\n"},
		// SinceNs is by another clock, of which these requests come from the future and from the past.
		"long ago": {func(l *edgeapi.Log) {
			l.SinceNs, l.SinceSeconds = at.Add(time.Hour).UnixNano(), int64(time.Since(at).Hours()+1)*3600
		}, "entry 0\n  more of 0\nentry 1\n  more of 1\nentry 2\n  more of 2\n"},
		"of late":    {func(l *edgeapi.Log) { l.SinceNs, l.SinceSeconds = 1, 1 }, ""},
		"timestamps": {func(l *edgeapi.Log) { l.TailLines, l.Timestamps = 2, true }, "2026-01-02T03:04:07Z entry 2\n  more of 2\n"},
		"limit":      {func(l *edgeapi.Log) { l.LimitBytes = 5 }, "entry"},
	} {
		if stdout, _, result := open(t, h, request(tt.change)).finish(); stdout != tt.want || result.GetReason() != "" {
			t.Errorf("%s: got %q, %v", name, stdout, result)
		}
	}
}

// TestAgentLogOfJSON has a log that was of text before.
func TestAgentLogOfJSON(t *testing.T) {
	h := newHost(t)
	h.config.AgentLog = filepath.Join(t.TempDir(), "arhat.log")
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	one, two := `{"time":"2026-01-02T03:04:06.5Z","level":"INFO","msg":"one"}`+"\n", `{"time":"2026-01-02T03:04:07Z","level":"INFO","msg":"two"}`+"\n"
	write(t, h.config.AgentLog, at.Format(time.RFC3339Nano)+" text\n"+one+two)
	for name, tt := range map[string]struct {
		since      time.Duration
		timestamps bool
		want       string
	}{
		"all":                  {want: "text\n" + one + two},
		"since":                {since: 2 * time.Second, want: two},
		"timestamps":           {timestamps: true, want: "2026-01-02T03:04:05Z text\n2026-01-02T03:04:06.5Z " + one + "2026-01-02T03:04:07Z " + two},
		"timestamps and since": {since: 2 * time.Second, timestamps: true, want: "2026-01-02T03:04:07Z " + two},
	} {
		l := &edgeapi.Log{Source: &edgeapi.Log_Agent{Agent: true}, TailLines: -1, LimitBytes: -1, Timestamps: tt.timestamps}
		if tt.since > 0 {
			l.SinceNs = at.Add(tt.since).UnixNano()
		}
		if stdout, _, result := open(t, h, logRequest(l)).finish(); stdout != tt.want || result.GetReason() != "" {
			t.Errorf("%s: got %q, %v", name, stdout, result)
		}
	}
}
