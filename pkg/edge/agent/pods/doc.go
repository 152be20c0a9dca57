// Package pods runs v1.Pods through the CRI as the kubelet would: it is told what pods the device
// should hold, brings the runtime there, keeps it there without the cloud, and reports what became of
// them. The yardstick for every behaviour a user can see is the kubelet's own.
//
// How it works: one worker goroutine per pod compares the desired pod with the state of the runtime
// and does what computeActions says; a relist of the runtime once a second (one call for all pods)
// and every input wake the workers. Nothing here depends on having seen an event: a restart of the
// agent or of the runtime is just another comparison.
//
// What belongs elsewhere: content of volumes (package volumes), pulling images (images), the record
// on disk (store), speaking CRI (runtime), the link to the cloud (the agent's wiring).
package pods
