package logging

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// File is a log file that is renamed to <path>.1, <path>.2 and so on when it is full. Each write is
// one entry and is preceded by the time in RFC 3339 and a space, so that readers can select by time,
// unless entries have it in themselves. It may be used concurrently.
type File struct {
	path     string
	maxSize  int64
	maxFiles int
	bare     bool // without times

	mu     sync.Mutex
	closed bool
	file   *os.File // nil also after a rotation that failed: the next write tries again
	size   int64
	buffer []byte
}

// openFile opens a file for appending. maxSize is in bytes; maxFiles counts the file in use too; bare says that
// entries are written as they are.
func openFile(path string, maxSize int64, maxFiles int, bare bool) (*File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f := &File{path: path, maxSize: maxSize, maxFiles: maxFiles, bare: bare}
	return f, f.open()
}

func (f *File) open() error {
	file, err := os.OpenFile(f.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	f.file, f.size = file, info.Size()
	return nil
}

// Write writes one entry. After Close it does nothing.
func (f *File) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return len(p), nil
	}
	if f.file == nil {
		if err := f.open(); err != nil {
			return 0, err
		}
	}
	f.buffer = f.buffer[:0]
	if !f.bare {
		f.buffer = append(time.Now().AppendFormat(f.buffer, time.RFC3339Nano), ' ')
	}
	f.buffer = append(f.buffer, p...)
	if f.size > 0 && f.size+int64(len(f.buffer)) > f.maxSize {
		if err := f.rotate(); err != nil {
			return 0, err
		}
	}
	n, err := f.file.Write(f.buffer)
	f.size += int64(n)
	return len(p), err
}

// rotate makes room. The oldest file goes.
func (f *File) rotate() error {
	errs := []error{f.file.Close()} // it is closed even if that fails
	f.file = nil
	name := func(i int) string {
		if i == 0 {
			return f.path
		}
		return f.path + "." + strconv.Itoa(i)
	}
	for i := f.maxFiles - 1; i >= 0; i-- {
		var err error
		if i == f.maxFiles-1 {
			err = os.Remove(name(i))
		} else {
			err = os.Rename(name(i), name(i+1))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, f.open())...)
}

// Close closes the file.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.file = nil
	return err
}
