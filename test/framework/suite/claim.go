package suite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"arhat.dev/aranya/hack/cluster/local"
)

const (
	dirPrefix = "aranya-e2e-"
	// claimFile is in the directory of a cluster from before it is brought up until it is down, and locked as long as
	// the process lives that is to take it down.
	claimFile = "claim"
)

// claim is a directory for a cluster that does not outlive its process for long: see takeDownLeftovers.
type claim struct {
	dir  string
	lock *os.File
}

func newClaim() (*claim, error) {
	dir, err := os.MkdirTemp("", dirPrefix)
	if err != nil {
		return nil, err
	}
	// It gets its name when it is locked, so that nobody takes it for a leftover before.
	path := filepath.Join(dir, claimFile)
	lock, err := lockFile(path+".new", os.O_CREATE)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &claim{dir: dir, lock: lock}, nil
}

// takeDown takes the cluster down, and gives the directory up. If that fails, another process tries again.
func (c *claim) takeDown(ctx context.Context, purge bool, out io.Writer) error {
	defer func() { _ = c.lock.Close() }()
	if err := local.Down(ctx, c.dir, purge, out); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(c.dir, claimFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_ = os.Remove(c.dir) // unless the logs are in it
	return nil
}

// takeDownLeftovers takes the clusters down whose processes could not, because of a panic, of go test's -timeout or of a
// SIGKILL. Their logs stay.
func takeDownLeftovers(ctx context.Context, out io.Writer) error {
	files, err := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*", claimFile))
	if err != nil {
		return err
	}
	for _, file := range files {
		dir := filepath.Dir(file)
		var stat unix.Stat_t
		if err := unix.Lstat(dir, &stat); err != nil || int(stat.Uid) != os.Geteuid() {
			continue // somebody else's
		}
		lock, err := lockFile(file, 0)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
			continue // in use, or gone by now
		}
		if err != nil {
			return err
		}
		if err := (&claim{dir: dir, lock: lock}).takeDown(ctx, false, out); err != nil {
			return fmt.Errorf("take down what a former run has left in %s: %w", dir, err)
		}
	}
	return nil
}

// lockFile opens and locks a file. The lock ends with the process, or with the file's Close.
func lockFile(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|flags, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}
