package pods

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLogRotation(t *testing.T) {
	simulate(t, func(t *testing.T, a *agent) {
		pod := newPod("chatty", box("main"))
		a.run(pod)
		path, id, err := a.manager.ContainerLog(string(pod.UID), "main", false)
		if err != nil {
			t.Fatal(err)
		}
		if id != a.runtime.running()["main"] {
			t.Errorf("got the log of container %s", id)
		}
		write := func(text string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(text+strings.Repeat("x", DefaultLogMaxSize)), 0o640); err != nil {
				t.Fatal(err)
			}
		}
		asides := func() []string { files, _ := filepath.Glob(path + ".*"); return files }
		rotate := func() {
			time.Sleep(logPeriod)
			synctest.Wait()
		}
		if err := os.WriteFile(path, []byte("small"), 0o640); err != nil {
			t.Fatal(err)
		}
		rotate()
		if len(asides()) != 0 {
			t.Error("a small log was rotated")
		}
		write("kept")
		a.runtime.set(func() { a.runtime.reopenErr = errors.New("no") })
		rotate()
		if data, _ := os.ReadFile(path); len(asides()) != 0 || !strings.HasPrefix(string(data), "kept") {
			t.Error("the log was put aside though the runtime did not begin a new one")
		}
		a.runtime.set(func() { a.runtime.reopenErr = nil })
		for range DefaultLogMaxFiles + 3 {
			write("again")
			rotate()
		}
		files := asides()
		if len(files) != DefaultLogMaxFiles-1 {
			t.Fatalf("got %v, want %d files besides the one being written", files, DefaultLogMaxFiles-1)
		}
		for i, file := range files {
			if last := i == len(files)-1; strings.HasSuffix(file, gzipSuffix) == last {
				t.Errorf("%s: all but the newest must be compressed", file)
			}
		}
		f, err := os.Open(files[0])
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		if data, err := io.ReadAll(z); err != nil || !strings.HasPrefix(string(data), "again") {
			t.Errorf("compressed log: %v", err)
		}
		a.delete(pod, 0)
		if len(asides()) != 0 {
			t.Error("logs are left behind")
		}
	})
}
