// +k8s:deepcopy-gen=package
// +k8s:conversion-gen=arhat.dev/aranya/pkg/apis/aranya
// +k8s:defaulter-gen=TypeMeta
// +k8s:openapi-gen=true
// +k8s:openapi-model-package=dev.arhat.aranya.v1alpha1

// +groupName=aranya.arhat.dev

// Package v1alpha1 is the version v1alpha1 of the API aranya.arhat.dev: the types that users and
// clients see, their defaults, and their conversion to the internal types. Their doc comments are
// what "kubectl explain" prints. Validation belongs in ../validation.
//
// The numbers in the protobuf tags are what lies in etcd: a new field gets a new one from hack/update-codegen.sh, and
// no number is ever changed, or used again for another field.
package v1alpha1
