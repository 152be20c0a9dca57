package state

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestTerminationMessage(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	log := write("log", "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:00Z stderr P two \n2026-01-01T00:00:00Z stderr F three\n")
	many := write("many", strings.Repeat("2026-01-01T00:00:00Z stdout F line\n", 200))
	wide := write("wide", "2026-01-01T00:00:00Z stdout F "+strings.Repeat("x", 10000)+"\n")
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, file, log string
		fallback        bool
		want            func(string) bool
	}{
		{"file", write("f", "words"), log, true, func(s string) bool { return s == "words" }},
		{"end of a long file", write("long", strings.Repeat("a", 5000)+"end"), "", false, func(s string) bool { return len(s) == maxMessage && strings.HasSuffix(s, "end") }},
		{"empty, no fallback", write("e", ""), log, false, func(s string) bool { return s == "" }},
		{"empty, fallback", write("e2", ""), log, true, func(s string) bool { return s == "one\ntwo three\n" }},
		{"no file", filepath.Join(dir, "none"), log, true, func(s string) bool { return s == "one\ntwo three\n" }},
		{"80 lines of the log", "", many, true, func(s string) bool { return strings.Count(s, "\n") == maxMessageLines }},
		{"2 KiB of the log", "", wide, true, func(s string) bool { return len(s) == maxMessageLog && strings.HasSuffix(s, "xxx\n") }},
		{"a pipe", pipe, "", false, func(s string) bool { return strings.HasPrefix(s, "Error on reading termination log") }},
	} {
		status := &runtimeapi.ContainerStatus{LogPath: tc.log}
		if tc.file != "" {
			status.Mounts = []*runtimeapi.Mount{{ContainerPath: "/dev/termination-log", HostPath: tc.file}}
		}
		if got := terminationMessage(status, terminationFile(status, "dev/termination-log"), tc.fallback); !tc.want(got) {
			t.Errorf("%s: got %.100q", tc.name, got)
		}
	}
}

func TestIPs(t *testing.T) {
	pod := &Pod{Sandboxes: []*runtimeapi.PodSandboxStatus{{State: runtimeapi.PodSandboxState_SANDBOX_READY, Network: &runtimeapi.PodSandboxNetworkStatus{
		Ip: "10.0.0.2", AdditionalIps: []*runtimeapi.PodIP{{Ip: "10.0.0.3"}, {Ip: "nonsense"}, {Ip: "2001:db8:0::2"}}}}}}
	if got := strings.Join(pod.IPs(false), " "); got != "10.0.0.2 2001:db8::2" {
		t.Errorf("got %s", got)
	}
	if got := strings.Join(pod.IPs(true), " "); got != "2001:db8::2 10.0.0.2" {
		t.Errorf("got %s", got)
	}
}
