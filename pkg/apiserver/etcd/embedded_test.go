package etcd

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"k8s.io/klog/v2"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Kept for the life of a process by the libraries.
		goleak.IgnoreTopFunction("gopkg.in/natefinch/lumberjack%2ev2.(*Logger).millRun"))
}

const quota = 64 << 20

func startEmbedded(t *testing.T, dir string) *Embedded {
	t.Helper()
	return startWithQuota(t, dir, quota)
}

func startWithQuota(t *testing.T, dir string, quota int64) *Embedded {
	t.Helper()
	e, err := StartEmbedded(t.Context(), EmbeddedConfig{Dir: dir, QuotaBytes: quota})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Stop)
	return e
}

func newClient(t *testing.T, e *Embedded) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{e.Endpoint()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func timeout(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestDataSurvivesARestart(t *testing.T) {
	dir := filepath.Join(shortDir(t), "etcd")
	e := startEmbedded(t, dir)
	client := newClient(t, e)
	if _, err := client.Put(timeout(t), "/key", "value"); err != nil {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	e.Stop()
	select {
	case <-e.Failed():
	default:
		t.Error("Failed is not closed after Stop")
	}

	again := newClient(t, startEmbedded(t, dir))
	got, err := again.Get(timeout(t), "/key")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "value" {
		t.Errorf("after the restart: %v", got.Kvs)
	}
}

// TestNobodyElseCanConnect would fail if etcd listened on a port, or others could open its socket.
func TestNobodyElseCanConnect(t *testing.T) {
	dir := filepath.Join(shortDir(t), "etcd")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	e := startEmbedded(t, dir)
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("others may enter the directory: %s", info.Mode())
	}
	for _, l := range e.etcd.Clients {
		if _, ok := l.Addr().(*net.UnixAddr); !ok {
			t.Errorf("listens on %s", l.Addr())
		}
	}
	if len(e.etcd.Peers) != 0 {
		t.Error("listens for peers")
	}
}

func TestTwoProcessesDoNotShareADirectory(t *testing.T) {
	lockTimeout = time.Second
	t.Cleanup(func() { lockTimeout = 10 * time.Second })
	dir := shortDir(t)
	client := newClient(t, startEmbedded(t, dir))
	var said []string
	logger := funcr.New(func(_, args string) { said = append(said, args) }, funcr.Options{})
	_, err := StartEmbedded(klog.NewContext(t.Context(), logger), EmbeddedConfig{Dir: dir, QuotaBytes: quota})
	if err == nil || !strings.Contains(err.Error(), "another process uses the directory") {
		t.Errorf("got %v", err)
	}
	if len(said) != 1 || !strings.Contains(said[0], "waiting for it to end") || !strings.Contains(said[0], dir) {
		t.Errorf("while it waited it said %q", said)
	}
	if _, err := client.Get(timeout(t), "/key"); err != nil {
		t.Errorf("the first one was harmed: %v", err)
	}
}

func TestStartEndsWithItsContext(t *testing.T) {
	dir := shortDir(t)
	startEmbedded(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := StartEmbedded(ctx, EmbeddedConfig{Dir: dir, QuotaBytes: quota}); err == nil {
		t.Error("want an error")
	}
}

func TestLongDirectory(t *testing.T) {
	dir := filepath.Join(shortDir(t), strings.Repeat("d", 120))
	e := startEmbedded(t, dir)
	if _, err := newClient(t, e).Put(timeout(t), "/key", "value"); err != nil {
		t.Fatal(err)
	}
	e.Stop()
	if _, err := os.Stat(e.socketIn); !os.IsNotExist(err) {
		t.Errorf("the directory of the socket is still there: %v", err)
	}
}

func TestUnusableDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := StartEmbedded(t.Context(), EmbeddedConfig{Dir: file, QuotaBytes: quota}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("want an error that names the directory, got %v", err)
	}
}

// shortDir is a directory whose name leaves room for a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "etcd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
