package cli

import (
	"archive/tar"
	"context"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"arhat.dev/aranya/pkg/streaming"
	"arhat.dev/aranya/test/framework/eventually"
)

func TestParsePaths(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want []string
		err  string
	}{
		"from a device":              {args: []string{"device-1:/etc/os-release", "/tmp/os-release"}, want: []string{"device-1", "/etc/os-release", ""}},
		"to a device":                {args: []string{"./a", "device-1:b:c"}, want: []string{"device-1", "", "b:c"}},
		"a local path with a colon":  {args: []string{"./a:b", "device-1:/b"}, want: []string{"device-1", "", "/b"}},
		"a device with its type":     {args: []string{"ed/device-1:/a", "b"}, want: []string{"device-1", "/a", ""}},
		"one argument":               {args: []string{"device-1:/a"}, err: "expected SOURCE and DESTINATION, got 1"},
		"from a device to another":   {args: []string{"device-1:/a", "device-2:/a"}, err: "expected one of"},
		"from here to here":          {args: []string{"a", "b"}, err: "expected one of"},
		"no path on the device":      {args: []string{"device-1:", "b"}, err: "path on the device is empty"},
		"no local path":              {args: []string{"device-1:/a", ""}, err: "local path is empty"},
		"a colon at the beginning":   {args: []string{":/a", "b"}, err: "expected one of"},
		"a namespace of the device ": {args: []string{"edge/device-1:/a", "b"}, err: "expected one of"},
	} {
		t.Run(name, func(t *testing.T) {
			device, from, to, err := parsePaths(tc.args)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error %v, want %q", err, tc.err)
				}
				return
			}
			if got := []string{device, from, to}; err != nil || strings.Join(got, "|") != strings.Join(tc.want, "|") {
				t.Errorf("got %q, error %v; want %q", got, err, tc.want)
			}
		})
	}
}

func TestSplitRemote(t *testing.T) {
	for remote, want := range map[string][2]string{
		"/etc/os-release": {"/etc", "os-release"}, "/etc/": {"/", "etc"}, "a": {".", "a"}, "/": {"/", "."},
		".": {".", "."}, "../..": {"../..", "."}, "a/../b": {".", "b"}, "-x": {".", "-x"},
	} {
		if dir, name := splitRemote(remote); [2]string{dir, name} != want {
			t.Errorf("%q: got %q and %q, want %q", remote, dir, name, want)
		}
	}
}

func TestBaseOf(t *testing.T) {
	for remote, want := range map[string]string{
		"/etc/hosts": "hosts", "/etc/": "etc", "/etc/.": ".", ".": ".", "/": "/", "..": "..", "a/..": ".", "a/.b": ".b",
	} {
		if got := baseOf(remote); got != want {
			t.Errorf("%q: got %q, want %q", remote, got, want)
		}
	}
}

// A copy that is interrupted leaves nothing behind, and the device is told.
func TestInterruptedCopy(t *testing.T) {
	const timeout = 20 * time.Second
	// Without cp's own handler the signal would end the test itself.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt)
	defer signal.Stop(signals)
	server, ended := streaming.NewServer(streaming.Config{}), make(chan struct{})
	c := testClient(t, func(w http.ResponseWriter, r *http.Request) {
		server.ServeCommand(w, r, streaming.Options{Stdout: true, Stderr: true}, func(ctx context.Context, streams streaming.IO) error {
			defer close(ended)
			archive := tar.NewWriter(streams.Stdout)
			if err := archive.WriteHeader(&tar.Header{Name: "./image", Typeflag: tar.TypeReg, Size: 1 << 20, Mode: 0o644}); err != nil {
				return err
			}
			if _, err := archive.Write([]byte("the beginning")); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		})
	})
	dir := t.TempDir()
	cmd := newCopyCommand(c)
	cmd.SetArgs([]string{"device-1:/image", filepath.Join(dir, "image")})
	copied := make(chan error, 1)
	go func() { copied <- cmd.Execute() }()
	eventually.Holds(t, "something is copied", func() bool {
		entries, err := os.ReadDir(dir)
		return err == nil && len(entries) > 0
	})
	if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-copied:
		if err == nil || err.Error() != "interrupted" {
			t.Errorf("error %v", err)
		}
	case <-time.After(timeout):
		t.Fatal("the copy goes on")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	<-ended
	if err := server.Shutdown(t.Context(), context.Canceled); err != nil {
		t.Error(err)
	}
}
