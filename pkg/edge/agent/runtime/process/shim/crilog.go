package shim

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxLogLine is how much of a line goes into one entry; the rest follows in further entries. It is
// also the most that is held back for a line that has not ended.
const maxLogLine = 16 << 10

// logFile is a container's log in CRI format. It keeps a descriptor of the directory, because the
// container's mounts may hide the path.
type logFile struct {
	mu    sync.Mutex
	dirfd int
	name  string
	file  *os.File
}

func openLog(path string) (*logFile, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	dirfd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	l := &logFile{dirfd: dirfd, name: filepath.Base(path)}
	return l, l.reopen()
}

// reopen begins a new file after a rotation.
func (l *logFile) reopen() error {
	fd, err := unix.Openat(l.dirfd, l.name, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o640)
	if err != nil {
		return &os.PathError{Op: "open", Path: l.name, Err: err}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		err = l.file.Close()
	}
	l.file = os.NewFile(uintptr(fd), l.name)
	return err
}

func (l *logFile) write(entries []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	// A full disk must not stop the container: the entries are lost, as with any container runtime.
	_, _ = l.file.Write(entries)
}

func (l *logFile) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.file.Sync(), l.file.Close())
}

// lineLogger turns the bytes of one stream into entries of a logFile.
type lineLogger struct {
	log    *logFile
	stream string // "stdout" or "stderr"
	now    func() time.Time
	line   []byte // what came since the last newline
	out    []byte
}

// Write logs the lines that p completes. It never fails.
func (l *lineLogger) Write(p []byte) (int, error) {
	n := len(p)
	l.out = l.out[:0]
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		take := min(len(p), maxLogLine-len(l.line))
		if end >= 0 && end <= take {
			l.line = append(l.line, p[:end]...)
			p = p[end+1:]
			l.entry('F')
			continue
		}
		l.line = append(l.line, p[:take]...)
		p = p[take:]
		if len(l.line) == maxLogLine && len(p) > 0 {
			l.entry('P')
		}
	}
	if len(l.out) > 0 {
		l.log.write(l.out)
	}
	return n, nil
}

// flush logs a last line that has no end.
func (l *lineLogger) flush() {
	if len(l.line) == 0 {
		return
	}
	l.out = l.out[:0]
	l.entry('F')
	l.log.write(l.out)
}

func (l *lineLogger) entry(tag byte) {
	l.out = l.now().AppendFormat(l.out, time.RFC3339Nano)
	l.out = append(l.out, ' ')
	l.out = append(l.out, l.stream...)
	l.out = append(l.out, ' ', tag, ' ')
	l.out = append(l.out, l.line...)
	l.out = append(l.out, '\n')
	l.line = l.line[:0]
}
