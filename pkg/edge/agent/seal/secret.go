package seal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	utilio "k8s.io/utils/io"

	"arhat.dev/aranya/pkg/edge/agent/diskfile"
)

// maxSecret bounds what is read as a secret.
const maxSecret = 64 << 10

// Load takes the key from a file that something else provides, a TPM by way of a systemd credential for
// example. It is never written.
func Load(path string) (*Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the device's secret: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot read the device's secret: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode()&0o007 != 0 {
		return nil, fmt.Errorf("the device's secret %s must be a regular file that others cannot read (its mode is %s)", path, info.Mode())
	}
	secret, err := utilio.ReadAtMost(f, maxSecret+1)
	if errors.Is(err, utilio.ErrLimitReached) {
		return nil, fmt.Errorf("the device's secret %s is larger than %d bytes", path, maxSecret)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the device's secret: %w", err)
	}
	key, err := New(secret)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// LoadOrCreate takes the key from a file of the agent's own, which is made with a random secret and mode 0600
// if there is none. A file that cannot be used is set aside, and what was is told by the second result:
// what was sealed with it cannot be opened any more. One that cannot be read, for whatever reason, may be good: it
// is left alone.
func LoadOrCreate(path string) (key *Key, lost, err error) {
	key, err = Load(path)
	var unread *fs.PathError
	switch {
	case err == nil:
		return key, nil, nil
	case errors.Is(err, fs.ErrNotExist):
	case errors.As(err, &unread):
		return nil, nil, fmt.Errorf("%w (what the device keeps is sealed with it; if it is removed, pods come back when the cloud sends them again)", err)
	default:
		lost = fmt.Errorf("%w; it was renamed to %s and replaced", err, path+".corrupt")
		if err := os.Rename(path, path+".corrupt"); err != nil {
			return nil, nil, errors.Join(lost, err)
		}
	}
	if err := create(path); err != nil {
		return nil, lost, fmt.Errorf("cannot make the device's secret: %w", err)
	}
	key, err = Load(path)
	return key, lost, err
}

// create writes a new secret so that it is there whole or not at all, and durably.
func create(path string) error {
	secret := make([]byte, MinSecret)
	_, _ = rand.Read(secret) // never fails
	if err := diskfile.Replace(path, secret, true); err != nil {
		return err
	}
	return diskfile.SyncDir(filepath.Dir(path))
}
