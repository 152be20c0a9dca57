package stats

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"k8s.io/utils/clock"
)

const (
	// DefaultDiskPeriod is for how long the size of a directory is taken to be what it was, as by the kubelet.
	DefaultDiskPeriod = time.Minute
	// walkers is how many directories are measured at a time, so that a large one does not hold up others.
	walkers = 4
	// remember is for how long a size is kept that nobody asks for.
	remember = 10 * time.Minute
)

// disk measures directories in the background, each for as long as it takes, and keeps what it found: to walk
// through one costs, and a large one on a slow disk takes longer than anybody waits.
type disk struct {
	clock  clock.PassiveClock
	period time.Duration
	walk   func(ctx context.Context, root string) (size, error)
	slots  chan struct{} // taken while walking

	ctx    context.Context // of the walks
	cancel context.CancelFunc
	walks  sync.WaitGroup

	mu          sync.Mutex
	directories map[string]*directory
}

type directory struct {
	asked, tried time.Time
	last         *size         // nil until it has been measured
	measuring    chan struct{} // closed when the walk that is under way has ended; nil without one
}

type size struct {
	at            time.Time
	bytes, inodes uint64
	absent        bool // there is no such directory
}

func newDisk(c clock.PassiveClock, period time.Duration) *disk {
	ctx, cancel := context.WithCancel(context.Background())
	return &disk{
		clock: c, period: period, walk: walk, slots: make(chan struct{}, walkers), ctx: ctx, cancel: cancel, directories: map[string]*directory{},
	}
}

// close ends the walks. Nothing may be measured after it.
func (d *disk) close() {
	d.cancel()
	d.walks.Wait()
}

// measure has a directory measured if that was too long ago. The channel is closed when it has been; it is nil if there is
// no need.
func (d *disk) measure(path string) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.clock.Now()
	dir := d.directories[path]
	if dir == nil {
		dir = &directory{}
		d.directories[path] = dir
	}
	dir.asked = now
	if fresh := now.Sub(dir.tried) < d.period && !now.Before(dir.tried); dir.measuring == nil && !fresh {
		dir.measuring = make(chan struct{})
		d.walks.Go(func() { d.measureNow(path, dir) })
	}
	return dir.measuring
}

func (d *disk) measureNow(path string, dir *directory) {
	d.slots <- struct{}{}
	s, err := d.walk(d.ctx, path)
	<-d.slots
	d.mu.Lock()
	defer d.mu.Unlock()
	dir.tried = d.clock.Now()
	if s.absent = errors.Is(err, fs.ErrNotExist); s.absent || err == nil {
		s.at = dir.tried
		dir.last = &s
	}
	close(dir.measuring)
	dir.measuring = nil
}

// last is how large a directory was when it was last measured, nil if that is not known.
func (d *disk) last(path string) *size {
	d.mu.Lock()
	defer d.mu.Unlock()
	if dir := d.directories[path]; dir != nil {
		return dir.last
	}
	return nil
}

// forget drops what nobody has asked for in a long time: those pods are gone.
func (d *disk) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.clock.Now().Add(-remember)
	for path, dir := range d.directories {
		if dir.measuring == nil && dir.asked.Before(before) {
			delete(d.directories, path)
		}
	}
}

// walk adds up what the files below a directory take, without those of other file systems and without
// counting one with several names twice. What vanishes meanwhile takes nothing.
func walk(ctx context.Context, root string) (size, error) {
	var total size
	var device uint64
	seen := map[uint64]bool{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if path == root {
				return err
			}
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return nil //nolint:nilerr // it has just been removed
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if path == root {
			device = uint64(st.Dev) //nolint:unconvert // its type depends on the architecture
		} else if uint64(st.Dev) != device { //nolint:unconvert // see above
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if st.Nlink > 1 && !entry.IsDir() {
			if seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
		}
		total.bytes += uint64(st.Blocks) * 512
		total.inodes++
		return nil
	})
	return total, err
}
