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
