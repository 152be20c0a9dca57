package criconfig

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"arhat.dev/aranya/pkg/edge/agent/volumes"
)

// Files are the places on the device from which a container's mounts come.
type Files struct {
	Volumes *volumes.Volumes
	// Mounted are the pod's volumes by name.
	Mounted map[string]volumes.Mounted
}

// mounts returns a container's mounts, and makes the subPath and hosts files among them.
func mounts(pod *v1.Pod, c *v1.Container, node *Node, files Files, podIPs []string, envs map[string]string) ([]*runtimeapi.Mount, error) {
	var out []*runtimeapi.Mount
	ownHosts := false
	for i := range c.VolumeMounts {
		vm := &c.VolumeMounts[i]
		ownHosts = ownHosts || filepath.Clean(vm.MountPath) == etcHosts
		mount, err := volumeMount(pod, c, node, files, i, vm, envs)
		if err != nil {
			return nil, err
		}
		out = append(out, mount)
	}
	if !ownHosts && (pod.Spec.HostNetwork || len(podIPs) > 0) {
		path, err := writeHosts(pod, node, files.Volumes.PodDir(string(pod.UID)), podIPs)
		if err != nil {
			return nil, fmt.Errorf("hosts file: %w", err)
		}
		out = append(out, &runtimeapi.Mount{HostPath: path, ContainerPath: etcHosts, SelinuxRelabel: node.SELinux})
	}
	return out, nil
}

func volumeMount(pod *v1.Pod, c *v1.Container, node *Node, files Files, index int, vm *v1.VolumeMount, envs map[string]string) (*runtimeapi.Mount, error) {
	volume, ok := files.Mounted[vm.Name]
	if !ok {
		return nil, fmt.Errorf("cannot find volume %q to mount into container %q", vm.Name, c.Name)
	}
	subPath := vm.SubPath
	if vm.SubPathExpr != "" {
		var err error
		if subPath, err = expandSubPath(vm.SubPathExpr, envs); err != nil {
			return nil, err
		}
	}
	var hostPath string
	var err error
	if subPath != "" {
		if hostPath, err = files.Volumes.SubPath(pod, volume, vm.Name, c.Name, index, subPath); err != nil {
			return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", vm.Name, c.Name, err)
		}
	} else if hostPath, err = files.Volumes.HostPath(pod, volume, vm.Name, c.Name, index); err != nil {
		return nil, err
	}
	propagation, err := mountPropagation(vm.MountPropagation)
	if err != nil {
		return nil, err
	}
	containerPath := vm.MountPath
	if !filepath.IsAbs(containerPath) {
		containerPath = filepath.Join("/", containerPath)
	}
	recursive, err := RecursiveReadOnly(vm, node.Features)
	if err != nil {
		return nil, err
	}
	if len(vm.BindMountOptions) > 0 && !node.Features.MountOptions {
		return nil, fmt.Errorf("volume %q requested bind mount options, but they are not supported by the runtime", vm.Name)
	}
	return &runtimeapi.Mount{
		HostPath:          hostPath,
		ContainerPath:     containerPath,
		Readonly:          vm.ReadOnly || volume.ReadOnly,
		RecursiveReadOnly: recursive,
		SelinuxRelabel:    node.SELinux && !volume.IsHostPath(),
		Propagation:       propagation,
		MountOptions:      vm.BindMountOptions,
	}, nil
}

// RecursiveReadOnly tells whether what is mounted below the volume is to be read-only as well.
func RecursiveReadOnly(vm *v1.VolumeMount, features Features) (bool, error) {
	if vm.RecursiveReadOnly == nil || *vm.RecursiveReadOnly == v1.RecursiveReadOnlyDisabled {
		return false, nil
	}
	switch {
	case !vm.ReadOnly:
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not read-only", vm.Name)
	case vm.MountPropagation != nil && *vm.MountPropagation != v1.MountPropagationNone:
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not compatible with propagation %q", vm.Name, *vm.MountPropagation)
	}
	switch *vm.RecursiveReadOnly {
	case v1.RecursiveReadOnlyIfPossible:
		return features.RecursiveReadOnly, nil
	case v1.RecursiveReadOnlyEnabled:
		if !features.RecursiveReadOnly {
			return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not supported by the runtime", vm.Name)
		}
		return true, nil
	}
	return false, fmt.Errorf("unknown recursive read-only mode %q", *vm.RecursiveReadOnly)
}

// expandSubPath refuses references to variables that are missing or empty.
func expandSubPath(expr string, envs map[string]string) (string, error) {
	missing := map[string]bool{}
	expanded := expand(expr, func(name string) string {
		if envs[name] == "" {
			missing[name] = true
		}
		return envs[name]
	})
	if len(missing) > 0 {
		return "", fmt.Errorf("missing value for %s", strings.Join(slices.Sorted(maps.Keys(missing)), ", "))
	}
	return expanded, nil
}

func mountPropagation(mode *v1.MountPropagationMode) (runtimeapi.MountPropagation, error) {
	if mode == nil {
		return runtimeapi.MountPropagation_PROPAGATION_PRIVATE, nil
	}
	switch *mode {
	case v1.MountPropagationNone:
		return runtimeapi.MountPropagation_PROPAGATION_PRIVATE, nil
	case v1.MountPropagationHostToContainer:
		return runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, nil
	case v1.MountPropagationBidirectional:
		return runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL, nil
	}
	return 0, fmt.Errorf("invalid MountPropagation mode: %q", *mode)
}

// TerminationDir holds a file for each instance of a container that may leave its last words there.
func TerminationDir(podDir, container string) string {
	return filepath.Join(podDir, "containers", container)
}

// terminationMount makes the file that a container may write its last words to.
func terminationMount(pod *v1.Pod, c *v1.Container, node *Node, files Files) (*runtimeapi.Mount, error) {
	if c.TerminationMessagePath == "" {
		return nil, nil
	}
	dir := TerminationDir(files.Volumes.PodDir(string(pod.UID)), c.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, "")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Chmod(0o666); err != nil { // whatever user the container runs as
		return nil, err
	}
	return &runtimeapi.Mount{
		HostPath: f.Name(), ContainerPath: filepath.Join("/", c.TerminationMessagePath), SelinuxRelabel: node.SELinux,
	}, nil
}
