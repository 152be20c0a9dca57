package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFlagsOverrideTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "arhat.yaml")
	if err := os.WriteFile(file, []byte("apiVersion: arhat.dev/v1alpha1\nkind: ArhatConfiguration\nserver: file:1\nruntime: process\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := (&flags{file: file, server: "flag:2", stateDir: "/state"}).load()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Server != "flag:2" || cfg.Runtime != "process" || cfg.StateDir != "/state" || cfg.Logging.File.Path != "/state/arhat.log" {
		t.Errorf("got %+v", cfg)
	}
}

func TestErrors(t *testing.T) {
	state := t.TempDir()
	inUse := t.TempDir()
	lock, err := os.Create(filepath.Join(inUse, "arhat.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	wrong := filepath.Join(state, "wrong.yaml")
	if err := os.WriteFile(wrong, []byte("apiVersion: arhat.dev/v1alpha1\nkind: ArhatConfiguration\nserver: a:1\nreserved: {cpu: x}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"value in a file":  {[]string{"run", "--config", wrong}, wrong + ": the configuration is not valid: reserved.cpu: Invalid value"},
		"no server":        {[]string{"run"}, "server: Required value"},
		"no file":          {[]string{"run", "--config", filepath.Join(state, "none.yaml")}, "none.yaml"},
		"runtime":          {[]string{"run", "--server", "a:1", "--runtime", "docker"}, "runtime: Invalid value"},
		"not enrolled":     {[]string{"run", "--server", "localhost:1", "--state-dir", state, "--runtime", "process"}, state + "/identity; get a token"},
		"join, no token":   {[]string{"join", "--server", "localhost:1", "--state-dir", state, "--runtime", "process"}, "token"},
		"join, arhat runs": {[]string{"join", "--server", "localhost:1", "--token", "x", "--state-dir", inUse, "--runtime", "process"}, "stop it"},
		"unknown command":  {[]string{"walk"}, "unknown command"},
		"argument":         {[]string{"run", "away"}, "unknown command \"away\""},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := newCommand()
			cmd.SetArgs(tt.args)
			if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestVersion(t *testing.T) {
	out := &bytes.Buffer{}
	cmd := newCommand()
	cmd.SetOut(out)
	cmd.SetArgs([]string{"version"})
	if err := cmd.Execute(); err != nil || !strings.HasPrefix(out.String(), "arhat v") {
		t.Errorf("got %q, %v", out, err)
	}
}
