package cli

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/util/rand"
)

// archive writes a file or directory as a tar archive in which it has the given name. It tells of what is
// neither of these nor a symbolic link.
func archive(w io.Writer, local, name string, skipped func(name, what string)) error {
	tw := tar.NewWriter(w)
	err := filepath.WalkDir(local, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		link := ""
		switch info.Mode().Type() {
		case 0, fs.ModeDir:
		case fs.ModeSymlink:
			if link, err = os.Readlink(file); err != nil {
				return err
			}
		default:
			skipped(file, "neither a file nor a directory nor a symbolic link")
			return nil
		}
		relative, err := filepath.Rel(local, file)
		if err != nil {
			return err
		}
		header, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		header.Name = path.Join(name, filepath.ToSlash(relative))
		if err := tw.WriteHeader(header); err != nil {
			return err
		}
		if info.Mode().IsRegular() {
			return archiveContent(tw, file, info.Size())
		}
		return nil
	})
	if err != nil {
		return err
	}
	return tw.Close()
}

// archiveContent writes a file of the size that its header told.
func archiveContent(tw *tar.Writer, file string, size int64) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // was only read
	if _, err := io.CopyN(tw, f, size); errors.Is(err, io.EOF) {
		return fmt.Errorf("%s has become shorter while it was copied", file)
	} else if err != nil {
		return err
	}
	return nil
}

// destination is where an archive goes: a name in a directory that nothing in the archive leads out of.
type destination struct {
	dir, name string
	// through says that what has the name stays, and is written to: a device, such as /dev/stdout, or a pipe.
	through bool
	root    *os.Root // of dir, from the first entry on
	skipped func(name, what string)
}

// findDestination finds where something of the given name is copied to: into a directory that is there, or
// to the path itself, or to what that leads to if it is a symbolic link.
func findDestination(local, name string) (*destination, error) {
	local = filepath.Clean(local)
	info, err := os.Stat(local)
	switch {
	case err == nil && info.IsDir():
		if name == "/" || name == ".." {
			name = "."
		}
		return &destination{dir: local, name: name}, nil
	case err == nil && info.Mode().IsRegular():
		if local, err = filepath.EvalSymlinks(local); err != nil {
			return nil, err
		}
	case errors.Is(err, fs.ErrNotExist):
		if to, err := os.Readlink(local); err == nil {
			return nil, fmt.Errorf("%s is a symbolic link to %s, which does not exist", local, to)
		}
	}
	return &destination{dir: filepath.Dir(local), name: filepath.Base(local), through: err == nil && !info.Mode().IsRegular()}, nil
}

// open makes the directory if need be: not before there is something to put into it.
func (d *destination) open() (err error) {
	if d.root != nil {
		return nil
	}
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	d.root, err = os.OpenRoot(d.dir)
	return err
}

// close leaves the directory. All files in it have been closed.
func (d *destination) close() {
	if d.root != nil {
		_ = d.root.Close()
	}
}

// extract reads an archive of one file or directory with the given name to its end. It makes files and
// directories; of other things it tells.
func (d *destination) extract(r io.Reader, name string) error {
	tr := tar.NewReader(r)
	for {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, r) // the padding, and how tar has ended
			return err
		}
		if err != nil {
			return err
		}
		local, err := d.place(header.Name, name)
		if err != nil {
			return err
		}
		if err := d.open(); err != nil {
			return err
		}
		if err := d.create(tr, header, local, name); err != nil {
			return err
		}
	}
}

// place is where an entry of the archive goes, below the root.
func (d *destination) place(entry, name string) (string, error) {
	relative, ok := path.Clean(entry), true
	if name != "." {
		if relative, ok = strings.CutPrefix(relative, name); ok && relative != "" {
			relative, ok = strings.CutPrefix(relative, "/")
		}
	}
	if relative = path.Join(".", relative); !ok || !filepath.IsLocal(filepath.FromSlash(relative)) {
		return "", fmt.Errorf("the device sent %q, which is not part of %q", entry, name)
	}
	return filepath.Join(d.name, filepath.FromSlash(relative)), nil
}

// create creates what one entry of the archive is.
func (d *destination) create(content io.Reader, header *tar.Header, local, name string) error {
	mode := header.FileInfo().Mode()
	if d.through && (header.Typeflag == tar.TypeDir || header.Typeflag == tar.TypeLink) {
		return fmt.Errorf("%s is not a directory", filepath.Join(d.dir, d.name))
	}
	if header.Typeflag != tar.TypeDir {
		if err := d.root.MkdirAll(filepath.Dir(local), 0o755); err != nil {
			return err
		}
	}
	switch header.Typeflag {
	case tar.TypeDir:
		// Files are made in it.
		return d.root.MkdirAll(local, mode.Perm()|0o700)
	case tar.TypeReg:
		return d.write(content, local, mode.Perm())
	case tar.TypeLink:
		linked, err := d.place(header.Linkname, name)
		if err != nil {
			return err
		}
		if err := d.root.Remove(local); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return d.root.Link(linked, local)
	case tar.TypeSymlink:
		d.skipped(header.Name, fmt.Sprintf("a symbolic link to %s; -L follows SOURCE itself", header.Linkname))
	default:
		d.skipped(header.Name, "neither a file nor a directory")
	}
	return nil
}

// write writes a file and puts it in place when it is whole.
func (d *destination) write(content io.Reader, local string, perm fs.FileMode) error {
	if d.through {
		return d.writeThrough(content)
	}
	// Of a length of its own: that of the file may be the longest there is.
	temporary := filepath.Join(filepath.Dir(local), ".kubectl-edge-"+rand.String(10))
	f, err := d.root.OpenFile(temporary, os.O_CREATE|os.O_EXCL|os.O_WRONLY, perm)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err = errors.Join(err, f.Close()); err == nil {
		err = d.root.Rename(temporary, local)
	}
	if err != nil {
		_ = d.root.Remove(temporary) // what failed is told
	}
	return err
}

// writeThrough writes a file to what the user has named. It may be a link to anywhere: it is not the device that has
// named it.
func (d *destination) writeThrough(content io.Reader) error {
	f, err := os.OpenFile(filepath.Join(d.dir, d.name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}
