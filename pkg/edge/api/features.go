package api

// Features that a device announces.
const (
	// FeatureKeptVolumes is of one that takes RunPod.kept_volumes from what it holds.
	FeatureKeptVolumes = "kept-volumes"
	// FeatureKeptRuntimeHandler is of one that takes the runtime handler from the pod that it holds, if that of
	// RunPod.pod is empty.
	FeatureKeptRuntimeHandler = "kept-runtime-handler"
)
