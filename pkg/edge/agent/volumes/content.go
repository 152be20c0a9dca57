package volumes

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// file is one file of a volume with content.
type file struct {
	path string // relative, clean
	data []byte
	mode os.FileMode
	uid  *int64 // owner other than root
}

func contentKind(volume *v1.Volume) string {
	switch {
	case volume.ConfigMap != nil:
		return "configmap"
	case volume.Secret != nil:
		return "secret"
	case volume.DownwardAPI != nil:
		return "downward-api"
	}
	return "projected"
}

// contentOf puts together the files of a volume: those from the cloud and those of the downward API.
func contentOf(pod *v1.Pod, volume *v1.Volume, src Source) ([]file, error) {
	byPath := map[string]file{}
	data := src.Data[volume.Name]
	if data == nil && needsData(volume) {
		return nil, fmt.Errorf("its content has not arrived from the cloud")
	}
	for _, f := range data.GetFiles() {
		path, err := cleanPath(f.Path)
		if err != nil {
			return nil, err
		}
		byPath[path] = file{path: path, data: f.Data, mode: os.FileMode(f.Mode) & os.ModePerm}
	}
	if volume.DownwardAPI != nil {
		if err := addDownward(byPath, volume.DownwardAPI.Items, volume.DownwardAPI.DefaultMode, v1.DownwardAPIVolumeSourceDefaultMode, src); err != nil {
			return nil, err
		}
	}
	if volume.Projected != nil {
		for _, source := range volume.Projected.Sources {
			if source.DownwardAPI != nil {
				if err := addDownward(byPath, source.DownwardAPI.Items, volume.Projected.DefaultMode, v1.ProjectedVolumeSourceDefaultMode, src); err != nil {
					return nil, err
				}
			}
			if source.ServiceAccountToken != nil {
				protectToken(byPath, source.ServiceAccountToken.Path, pod)
			}
		}
	}
	files := make([]file, 0, len(byPath))
	for _, f := range byPath {
		files = append(files, f)
	}
	return files, nil
}

// needsData tells whether a part of the volume comes from the cloud.
func needsData(volume *v1.Volume) bool {
	if volume.ConfigMap != nil || volume.Secret != nil {
		return true
	}
	if volume.Projected != nil {
		for _, source := range volume.Projected.Sources {
			if source.DownwardAPI == nil {
				return true
			}
		}
	}
	return false
}

func addDownward(byPath map[string]file, items []v1.DownwardAPIVolumeFile, defaultMode *int32, fallback int32, src Source) error {
	for i := range items {
		item := &items[i]
		path, err := cleanPath(item.Path)
		if err != nil {
			return err
		}
		content, err := src.Downward(item)
		if err != nil {
			return err
		}
		mode := ptr.Deref(defaultMode, fallback)
		if item.Mode != nil {
			mode = *item.Mode
		}
		byPath[path] = file{path: path, data: content, mode: os.FileMode(mode) & os.ModePerm}
	}
	return nil
}

// protectToken gives a service account token to the one user that all containers run as, or to the
// volume's group, and to nobody else.
func protectToken(byPath map[string]file, path string, pod *v1.Pod) {
	path, err := cleanPath(path)
	if err != nil {
		return
	}
	f, ok := byPath[path]
	if !ok {
		return
	}
	f.uid = commonUser(pod)
	if f.uid != nil || fsGroup(pod) != nil {
		f.mode = 0o600
	}
	byPath[path] = f
}

// commonUser returns the user that all containers of the pod run as by their spec, if there is one.
func commonUser(pod *v1.Pod) *int64 {
	var podUser, common *int64
	if pod.Spec.SecurityContext != nil {
		podUser = pod.Spec.SecurityContext.RunAsUser
	}
	for _, containers := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			user := podUser
			if sc := containers[i].SecurityContext; sc != nil && sc.RunAsUser != nil {
				user = sc.RunAsUser
			}
			if user == nil || (common != nil && *common != *user) {
				return nil
			}
			common = user
		}
	}
	return common
}

// cleanPath refuses what could leave the volume, or be taken for a part of the atomic update.
func cleanPath(path string) (string, error) {
	clean := filepath.Clean(path)
	if path == "" || clean == "." || filepath.IsAbs(path) || strings.HasPrefix(clean, "..") || len(clean) > 4096 {
		return "", fmt.Errorf("path %q is not inside the volume, or begins with \"..\"", path)
	}
	return clean, nil
}

// setupContent writes the files. Secrets do not touch the disk where a tmpfs can be mounted: see mountTmpfs for swap.
func (v *Volumes) setupContent(pod *v1.Pod, kind, path string, files []file) error {
	if err := os.MkdirAll(path, dirMode); err != nil {
		return err
	}
	if kind == "secret" || kind == "projected" {
		if err := mountPrivateTmpfs(path); err != nil {
			return err
		}
	}
	if err := openRoot(path); err != nil {
		return err
	}
	if err := setRootOwnership(path, fsGroup(pod)); err != nil {
		return err
	}
	return writeAtomically(path, files, fsGroup(pod))
}

// openRoot gives the root directory of a volume what the umask has kept from it. What is more, it keeps.
func openRoot(path string) error {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&dirMode == dirMode {
		return err
	}
	return os.Chmod(path, info.Mode()|dirMode)
}
