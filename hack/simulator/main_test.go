package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A flag that is wrong leaves no directory behind.
func TestWrongFlag(t *testing.T) {
	dir := t.TempDir()
	tokens := filepath.Join(dir, "tokens")
	if err := os.WriteFile(tokens, []byte("token"), 0o600); err != nil {
		t.Fatal(err)
	}
	temp := filepath.Join(dir, "temp")
	if err := os.Mkdir(temp, 0o700); err != nil {
		t.Fatal(err)
	}
	memoryDir = temp
	cmd := newCommand()
	cmd.SetArgs([]string{"--tokens=" + tokens, "--server=gw:7443", "--workers=0"})
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "workers 0") {
		t.Errorf("got %v", err)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, error %v", left, err)
	}
}

// Of a directory that is the user's only what the simulator has made goes.
func TestDirStays(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"tokens", "notes"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("nonsense"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := newCommand()
	cmd.SetArgs([]string{"--tokens=" + filepath.Join(dir, "tokens"), "--server=gw:7443", "--dir=" + dir})
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "token 1") {
		t.Errorf("got %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("left are %v, error %v", left, err)
	}
}
