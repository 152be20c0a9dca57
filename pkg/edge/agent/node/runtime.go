package node

import (
	"cmp"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

// readRuntimeStatus translates CRI's words into those of a Node.
func readRuntimeStatus(response *runtimeapi.StatusResponse) runtimeState {
	state := runtimeState{}
	met := map[string]bool{}
	for _, c := range response.GetStatus().GetConditions() {
		if c.Type != runtimeapi.RuntimeReady && c.Type != runtimeapi.NetworkReady {
			continue
		}
		met[c.Type] = c.Status
		if !c.Status {
			state.problems = append(state.problems, fmt.Sprintf("container runtime condition %s=false reason:%s message:%s", c.Type, c.Reason, c.Message))
		}
	}
	for _, required := range []string{runtimeapi.RuntimeReady, runtimeapi.NetworkReady} {
		if _, ok := met[required]; !ok {
			state.problems = append(state.problems, fmt.Sprintf("container runtime condition %s is missing", required))
		}
	}
	state.ready = len(state.problems) == 0
	for _, h := range response.GetRuntimeHandlers() {
		handler := v1.NodeRuntimeHandler{Name: h.GetName()}
		if f := h.GetFeatures(); f != nil {
			handler.Features = &v1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: ptr.To(f.RecursiveReadOnlyMounts), UserNamespaces: ptr.To(f.UserNamespaces)}
		}
		state.handlers = append(state.handlers, handler)
	}
	slices.SortFunc(state.handlers, func(a, b v1.NodeRuntimeHandler) int { return cmp.Compare(a.Name, b.Name) })
	if f := response.GetFeatures(); f != nil {
		state.features = &v1.NodeFeatures{SupplementalGroupsPolicy: ptr.To(f.SupplementalGroupsPolicy)}
	}
	return state
}

// nodeImages lists the largest images, for the scheduler's sake.
func nodeImages(images []*runtimeapi.Image) []v1.ContainerImage {
	sorted := slices.Clone(images)
	slices.SortFunc(sorted, func(a, b *runtimeapi.Image) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(a.Id, b.Id))
	})
	var list []v1.ContainerImage
	for _, image := range sorted {
		names := slices.Concat(image.RepoDigests, image.RepoTags)
		if len(names) == 0 {
			continue
		}
		slices.Sort(names)
		list = append(list, v1.ContainerImage{Names: names[:min(len(names), 5)], SizeBytes: int64(image.Size)})
		if len(list) == maxImages {
			break
		}
	}
	return list
}
