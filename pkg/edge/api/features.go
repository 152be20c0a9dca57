package api

// FeatureKeptVolumes is what a device announces that takes RunPod.kept_volumes from what it holds.
const FeatureKeptVolumes = "kept-volumes"
