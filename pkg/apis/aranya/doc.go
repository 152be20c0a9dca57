// +k8s:deepcopy-gen=package

// +groupName=aranya.arhat.dev

// Package aranya holds the internal types of the API aranya.arhat.dev: what the API server works with
// after decoding and before encoding. They have the shape of the newest external version; the meaning
// of each field is documented there, in v1alpha1. Nothing outside of the API server uses this package.
package aranya
