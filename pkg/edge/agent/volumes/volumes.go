// Package volumes makes the volumes of pods on the device: directories, tmpfs mounts, and files whose
// content came from the cloud, kept up to date under the running containers. It decides nothing about
// containers; which volume goes where in which container is for package pods.
//
// The layout is the kubelet's: <dir>/<pod uid>/volumes/kubernetes.io~<kind>/<volume>, and
// volume-subpaths/<volume>/<container>/<index> for mounts with a subPath.
package volumes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"

	edgeapi "arhat.dev/aranya/pkg/edge/api"
)

const (
	dirMode     = 0o755
	volumesDir  = "volumes"
	subpathsDir = "volume-subpaths"
)

// Volumes makes and removes volumes below one directory. Its methods may be called concurrently for
// different pods.
type Volumes struct {
	dir string
	// agentRights says that containers get volumes with no other rights than the agent has.
	agentRights bool
}

// New returns Volumes below dir, which holds one directory per pod. AgentRights says that the container runtime mounts
// with no other rights than the agent has, as that for processes does, and those behind CRI need not.
func New(dir string, agentRights bool) *Volumes { return &Volumes{dir: dir, agentRights: agentRights} }

// PodDir is the directory of all that belongs to a pod.
func (v *Volumes) PodDir(podUID string) string { return filepath.Join(v.dir, podUID) }

// Pods lists the UIDs of the pods that have a directory.
func (v *Volumes) Pods() ([]string, error) {
	entries, err := os.ReadDir(v.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var uids []string
	for _, entry := range entries {
		if entry.IsDir() {
			uids = append(uids, entry.Name())
		}
	}
	return uids, err
}

// Mounted is a volume that is ready to be mounted into containers.
type Mounted struct {
	// Path on the host.
	Path string
	// ReadOnly volumes are mounted read-only whatever the container says.
	ReadOnly bool
	host     *hostPath // nil if it is not one
}

// IsHostPath tells whether the volume belongs to the device, and not to the pod.
func (m *Mounted) IsHostPath() bool { return m.host != nil }

// open opens (O_PATH) the volume.
func (m *Mounted) open() (int, error) {
	if m.host != nil {
		return m.host.open(false)
	}
	return unix.Open(m.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// Source is what Setup needs to know besides the pod.
type Source struct {
	// Data by name of the volume, as it came from the cloud.
	Data map[string]*edgeapi.VolumeData
	// Downward returns the content of one file of the downward API.
	Downward func(*v1.DownwardAPIVolumeFile) ([]byte, error)
	// MemoryBytes of the device for pods: the upper limit of a tmpfs without one. 0: not known.
	MemoryBytes int64
	// AllowsHostPath tells whether a hostPath volume may be at a path without symbolic links. Nil: anywhere.
	AllowsHostPath func(path string) bool
}

// SetupError says which volume of a pod could not be made.
type SetupError struct {
	Volume string
	Err    error
}

func (e *SetupError) Error() string {
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Volume, e.Err)
}

func (e *SetupError) Unwrap() error { return e.Err }

// Setup makes the pod's volumes, or brings their content up to date. The volumes are by name. Every
// failing volume is a *SetupError in the joined error; the others are made nevertheless.
func (v *Volumes) Setup(pod *v1.Pod, src Source) (map[string]Mounted, error) {
	mounted := map[string]Mounted{}
	var errs []error
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		m, err := v.setup(pod, volume, src)
		if err != nil {
			errs = append(errs, &SetupError{Volume: volume.Name, Err: err})
			continue
		}
		mounted[volume.Name] = m
	}
	return mounted, errors.Join(errs...)
}

func (v *Volumes) setup(pod *v1.Pod, volume *v1.Volume, src Source) (Mounted, error) {
	switch {
	case volume.EmptyDir != nil:
		path := v.EmptyDir(pod, volume.Name)
		return Mounted{Path: path}, setupEmptyDir(pod, volume.EmptyDir, path, src.MemoryBytes)
	case volume.HostPath != nil:
		host := newHostPath(volume.HostPath, src.AllowsHostPath)
		return Mounted{Path: host.path, host: host}, host.setup()
	case volume.ConfigMap != nil, volume.Secret != nil, volume.DownwardAPI != nil, volume.Projected != nil:
		kind := contentKind(volume)
		files, err := contentOf(pod, volume, src)
		if err != nil {
			return Mounted{}, err
		}
		path := v.path(pod, kind, volume.Name)
		return Mounted{Path: path, ReadOnly: true}, v.setupContent(pod, kind, path, files)
	}
	return Mounted{}, fmt.Errorf("volumes of type %s cannot be used on an edge device: use emptyDir, hostPath, configMap, secret, downwardAPI or projected", typeOf(volume))
}

// typeOf is the name of the volume's type in the API.
func typeOf(volume *v1.Volume) string {
	source := reflect.ValueOf(volume.VolumeSource)
	for i := range source.NumField() {
		if !source.Field(i).IsNil() {
			name, _, _ := strings.Cut(source.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return "unknown to this agent"
}

// EmptyDir is the directory of an emptyDir volume.
func (v *Volumes) EmptyDir(pod *v1.Pod, name string) string { return v.path(pod, "empty-dir", name) }

func (v *Volumes) path(pod *v1.Pod, kind, name string) string {
	return filepath.Join(v.PodDir(string(pod.UID)), volumesDir, "kubernetes.io~"+kind, name)
}

// Teardown removes all that belongs to a pod, its content included. It may be called again.
func (v *Volumes) Teardown(podUID string) error {
	dir := v.PodDir(podUID)
	if podUID == "" || filepath.Dir(dir) != filepath.Clean(v.dir) {
		return fmt.Errorf("pod UID %q is no directory name", podUID)
	}
	return RemoveAll(dir)
}

// RemoveAll removes a directory with all that is in it, and unmounts what is mounted there first.
func RemoveAll(dir string) error {
	if err := unmountBelow(dir); err != nil {
		return err // what is still mounted must not be deleted
	}
	return os.RemoveAll(dir)
}

func unmountBelow(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real // as the kernel names mount points
	}
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	// A part of the host that is bound here, and what is mounted below it, is so in both places, and would be
	// unmounted in both.
	for _, info := range infos {
		if err := unix.Mount("", info.Mountpoint, "", unix.MS_PRIVATE, ""); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("make mount %s private: %w", info.Mountpoint, err)
		}
	}
	var errs []error
	for i := len(infos) - 1; i >= 0; i-- { // innermost first
		point := infos[i].Mountpoint
		if err := unix.Unmount(point, unix.UMOUNT_NOFOLLOW); err != nil {
			if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
				errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
			}
		}
	}
	return errors.Join(errs...)
}
