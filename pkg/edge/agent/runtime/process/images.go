package process

import (
	"context"
	"os"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// HostImage is the one image that this runtime has: the host's own files.
const HostImage = "host"

// isHostImage knows the image in the ways that it is written after normalization.
func isHostImage(name string) bool {
	switch strings.TrimPrefix(name, "docker.io/library/") {
	case HostImage, HostImage + ":latest":
		return true
	}
	return false
}

func refuseImage(name string) error {
	return status.Errorf(codes.InvalidArgument, "this device has no container runtime: it runs executables of the host for containers with the image %q, and cannot run the image %q", HostImage, name)
}

// hostImage describes the image. Its user is the agent's own, which decides on runAsNonRoot.
func hostImage() *runtimeapi.Image {
	return &runtimeapi.Image{
		Id: HostImage, RepoTags: []string{HostImage + ":latest"}, Size: 1,
		Uid: &runtimeapi.Int64Value{Value: int64(os.Geteuid())}, Spec: &runtimeapi.ImageSpec{Image: HostImage}, Pinned: true,
	}
}

// ListImages is a CRI call.
func (r *Runtime) ListImages(_ context.Context, filter *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	if name := filter.GetImage().GetImage(); name != "" && !isHostImage(name) {
		return nil, nil
	}
	return []*runtimeapi.Image{hostImage()}, nil
}

// ImageStatus is a CRI call. An image that cannot be had is simply not there.
func (r *Runtime) ImageStatus(_ context.Context, image *runtimeapi.ImageSpec, _ bool) (*runtimeapi.ImageStatusResponse, error) {
	if !isHostImage(image.GetImage()) {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	return &runtimeapi.ImageStatusResponse{Image: hostImage()}, nil
}

// PullImage is a CRI call.
func (r *Runtime) PullImage(_ context.Context, image *runtimeapi.ImageSpec, _ *runtimeapi.AuthConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	if !isHostImage(image.GetImage()) {
		return "", refuseImage(image.GetImage())
	}
	return HostImage, nil
}

// RemoveImage is a CRI call. It succeeds for images that are not there; the host's files stay.
func (r *Runtime) RemoveImage(_ context.Context, image *runtimeapi.ImageSpec) error {
	if isHostImage(image.GetImage()) {
		return status.Errorf(codes.FailedPrecondition, "the image %q cannot be removed", HostImage)
	}
	return nil
}

// ImageFsInfo is a CRI call. No file system holds images: to remove some, or a pod, would make no room for any.
func (r *Runtime) ImageFsInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{}, nil
}
