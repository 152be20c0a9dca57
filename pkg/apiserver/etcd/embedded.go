package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
)

const (
	// memberName is stored with the data: it must never change.
	memberName = "aranya"
	// startTimeout bounds the replay of the write-ahead log of a large database.
	startTimeout = 5 * time.Minute
	// maxSocketPath is the longest path that fits into sockaddr_un, without the final zero.
	maxSocketPath = 107
	// compactionHistory is the number of revisions that a compaction leaves. The API server compacts
	// by time as well; this bounds the history if it does not get round to it.
	compactionHistory = "100000"
	// catchUpEntries of the log stay in memory for members that lag behind, of which there are none.
	catchUpEntries = 100
	// streamWorkers serve requests one after the other. A goroutine for each would have to grow its stack anew,
	// several times. The few streams that last occupy one each; beyond the last one the usual way is taken.
	streamWorkers = 16
)

// lockTimeout is how long to wait for a process that is on its way out. Tests have less patience.
var lockTimeout = 10 * time.Second

// EmbeddedConfig configures the etcd inside this process.
type EmbeddedConfig struct {
	// Dir holds the data. It is created with mode 0700 if it does not exist, and its mode is
	// tightened to that if it does: who can open the socket in it can read and write everything.
	Dir string
	// QuotaBytes is the size of the database above which etcd refuses writes.
	QuotaBytes int64
}

// Embedded is an etcd of one member inside this process. It listens on nothing but a unix socket in
// its directory: no port, and no use for other users of the machine.
type Embedded struct {
	etcd     *embed.Etcd
	endpoint string
	socketIn string // directory to remove at the end, if the socket did not fit into Dir
	lock     *fileutil.LockedFile

	stop     sync.Once
	stopping atomic.Bool
}

// StartEmbedded starts etcd and waits until it serves, or ctx ends. The caller must call Stop.
func StartEmbedded(ctx context.Context, cfg EmbeddedConfig) (*Embedded, error) {
	logger := klog.FromContext(ctx).WithName("etcd")
	if err := privateDir(cfg.Dir); err != nil {
		return nil, err
	}
	lock, err := lockDir(ctx, cfg.Dir)
	if err != nil {
		return nil, err
	}
	socket, socketDir, err := socketPath(cfg.Dir)
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	e := &Embedded{endpoint: "unix://" + socket, socketIn: socketDir, lock: lock}
	e.etcd, err = embed.StartEtcd(embedConfig(cfg, socket, newZapLogger(logger, &e.stopping)))
	if err != nil {
		e.release()
		return nil, fmt.Errorf("start the embedded etcd in %s: %w", cfg.Dir, err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	select {
	case <-e.etcd.Server.ReadyNotify():
		if err := e.reclaimSpace(klog.NewContext(ctx, logger)); err != nil {
			// What is stored can be read nevertheless.
			logger.Error(err, "The embedded etcd has reached its quota and refuses writes; could not give space back", "dir", cfg.Dir)
		}
		registerMetrics()
		logger.Info("Embedded etcd is serving", "dir", cfg.Dir, "quotaBytes", cfg.QuotaBytes)
		return e, nil
	case err = <-e.etcd.Err():
	case <-e.etcd.Server.StopNotify():
		err = errors.New("it stopped while starting")
	case <-ctx.Done():
		err = ctx.Err()
	}
	e.Stop()
	return nil, fmt.Errorf("start the embedded etcd in %s: %w", cfg.Dir, err)
}

// Endpoint is the URL for clients.
func (e *Embedded) Endpoint() string { return e.endpoint }

// Failed is closed when etcd has stopped, asked to or not.
func (e *Embedded) Failed() <-chan struct{} { return e.etcd.Server.StopNotify() }

// Stop ends etcd after its running requests, with the data on disk. It may be called more than once.
func (e *Embedded) Stop() {
	e.stop.Do(func() {
		e.stopping.Store(true)
		e.etcd.Close()
		e.release()
	})
}

// release gives back what was taken before etcd was started.
func (e *Embedded) release() {
	_ = e.lock.Close()
	if e.socketIn != "" {
		// What is left in the directory for temporary files is only litter.
		_ = os.RemoveAll(e.socketIn)
	}
}

func embedConfig(cfg EmbeddedConfig, socket string, logger *zap.Logger) *embed.Config {
	c := embed.NewConfig()
	c.Name = memberName
	c.Dir = cfg.Dir
	c.QuotaBackendBytes = cfg.QuotaBytes
	c.AutoCompactionMode = embed.CompactorModeRevision
	c.AutoCompactionRetention = compactionHistory
	c.SnapshotCatchUpEntries = catchUpEntries
	c.ListenClientUrls = []url.URL{{Scheme: "unix", Path: socket}}
	c.AdvertiseClientUrls = c.ListenClientUrls
	// A member needs a peer URL as part of its identity; nothing listens there.
	c.ListenPeerUrls = nil
	c.AdvertisePeerUrls = []url.URL{{Scheme: "unix", Path: "aranya-embedded"}}
	c.InitialCluster = c.InitialClusterFromName(memberName)
	c.EnableGRPCGateway = false
	c.StrictReconfigCheck = false
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(logger)
	c.GRPCAdditionalServerOptions = []grpc.ServerOption{grpc.NumStreamWorkers(streamWorkers)}
	return c
}

func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create the directory of the embedded etcd: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of the embedded etcd private: %w", err)
	}
	return nil
}

// lockDir makes sure that no other process uses the directory. etcd has locks of its own, but takes away
// the socket of the other process before it looks at them, and then waits for ever.
func lockDir(ctx context.Context, dir string) (*fileutil.LockedFile, error) {
	var lock *fileutil.LockedFile
	waiting := false
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, lockTimeout, true, func(context.Context) (done bool, err error) {
		lock, err = fileutil.TryLockFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
		if errors.Is(err, fileutil.ErrLocked) {
			if !waiting {
				klog.FromContext(ctx).Info("Another process uses the directory of the embedded etcd; waiting for it to end", "dir", dir, "patience", lockTimeout)
				waiting = true
			}
			return false, nil
		}
		return err == nil, err
	})
	switch {
	case wait.Interrupted(err) && ctx.Err() == nil:
		return nil, fmt.Errorf("another process uses the directory of the embedded etcd, %s: stop it, or choose another directory with --embedded-etcd-dir", dir)
	case err != nil:
		return nil, fmt.Errorf("lock the directory of the embedded etcd: %w", err)
	}
	return lock, nil
}

// socketPath returns the path of the client socket: in dir if it fits, in a private directory for
// temporary files (also returned, to be removed) if not.
func socketPath(dir string) (path, tempDir string, err error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", "", err
	}
	if path = filepath.Join(abs, "client.sock"); len(path) <= maxSocketPath {
		return path, "", nil
	}
	if tempDir, err = os.MkdirTemp("", "aranya-etcd-"); err != nil {
		return "", "", fmt.Errorf("%s is too long for a unix socket, and there is no place for one elsewhere: %w", path, err)
	}
	return filepath.Join(tempDir, "client.sock"), tempDir, nil
}
