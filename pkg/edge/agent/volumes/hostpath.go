package volumes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
)

// checkHostPath checks the type of a host path, and creates it where the type asks for that. A path
// without a type is left to the runtime.
func checkHostPath(source *v1.HostPathVolumeSource) error {
	if source.Type == nil || *source.Type == v1.HostPathUnset {
		return nil
	}
	switch *source.Type {
	case v1.HostPathDirectoryOrCreate:
		if err := os.MkdirAll(source.Path, dirMode); err != nil {
			return err
		}
	case v1.HostPathFileOrCreate:
		f, err := os.OpenFile(source.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err == nil {
			err = f.Close()
		}
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("hostPath type check failed: the directory %s of %s does not exist", filepath.Dir(source.Path), source.Path)
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	info, err := os.Stat(source.Path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	ok, what := false, ""
	switch *source.Type {
	case v1.HostPathDirectoryOrCreate, v1.HostPathDirectory:
		ok, what = info != nil && info.IsDir(), "directory"
	case v1.HostPathFileOrCreate, v1.HostPathFile:
		ok, what = info != nil && info.Mode().IsRegular(), "file"
	case v1.HostPathSocket:
		ok, what = info != nil && info.Mode()&os.ModeSocket != 0, "socket file"
	case v1.HostPathCharDev:
		ok, what = info != nil && info.Mode()&os.ModeCharDevice != 0, "character device"
	case v1.HostPathBlockDev:
		ok, what = info != nil && info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0, "block device"
	default:
		return fmt.Errorf("%s is an invalid volume type", *source.Type)
	}
	if !ok {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", source.Path, what)
	}
	return nil
}
